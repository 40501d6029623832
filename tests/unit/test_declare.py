"""Declarations, the allow-list and the routing table."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hpcpools
from hpcpools import catalog, config
from hpcpools.declare import TaskDeclaration, TrainingDeclaration
from hpcpools.errors import ConfigError, RefusedError, UsageError

SOURCE = """
from os.path import join
from hpcpools import task, training

@task
def plain(): ...

@task(queue="evaluation", timeout="5m", retries=2, result_ttl=60)
def evaluate(ckpt, best=False): ...

@training(gpus=4, time="90s", partition="gpu")
def fit(run, lr=0.1): ...

def undeclared(): ...
"""


@pytest.fixture
def module(tmp_path: Path) -> Iterator[str]:
    """A user's module of a name no other test uses."""
    name = f"user_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    yield name
    sys.modules.pop(name, None)
    sys.path[:] = [folder for folder in sys.path if folder != str(tmp_path)]


def load(tmp_path: Path, module: str, **more: Any) -> catalog.Catalog:
    """The catalog of a project with that one module."""
    data = {"project": {"modules": [module]}, **more}
    return catalog.load(config.parse(data, tmp_path / "hpcpools.toml", {}))


def test_declarations_carry_what_was_said(tmp_path: Path, module: str) -> None:
    """Times in seconds for tasks, in whole minutes for trainings."""
    listed = load(tmp_path, module)
    assert listed.get(f"{module}:evaluate").declaration == TaskDeclaration("evaluation", 300.0, 2, 60.0)
    fit = listed.get(f"{module}:fit")
    assert fit.declaration == TrainingDeclaration(gpus=4, time=2, partition="gpu")
    assert (fit.queue, fit.is_training) == ("training", True)
    assert listed.get(f"{module}:plain").queue == "default"


@pytest.mark.parametrize("name", ["undeclared", "join", "os", "__builtins__", "missing"])
def test_only_declared_callables_are_listed(tmp_path: Path, module: str, name: str) -> None:
    """The allow-list: not what is merely importable."""
    with pytest.raises(RefusedError):
        load(tmp_path, module).get(f"{module}:{name}")
    with pytest.raises(RefusedError):
        load(tmp_path, module).get("os:system")


def test_each_pool_refuses_the_other_s_work(tmp_path: Path, module: str) -> None:
    """With the right command in the hint."""
    listed = load(tmp_path, module)
    with pytest.raises(RefusedError, match="hpcpools train"):
        listed.short(f"{module}:fit")
    with pytest.raises(RefusedError, match="hpcpools enqueue"):
        listed.training(f"{module}:plain")


def test_the_routing_table_overrules(tmp_path: Path, module: str) -> None:
    """To another queue, or to the training pool; never a training to a short queue."""
    listed = load(tmp_path, module, routing={f"{module}:plain": "training", f"{module}:evaluate": "default"})
    assert listed.training(f"{module}:plain").routed_by == "config"
    assert listed.short(f"{module}:evaluate").queue == "default"
    with pytest.raises(ConfigError, match="@training"):
        load(tmp_path, module, routing={f"{module}:fit": "default"})
    with pytest.raises(ConfigError, match="did you mean"):
        load(tmp_path, module, routing={f"{module}:plian": "default"})


def test_a_broken_module_is_named(tmp_path: Path) -> None:
    """Module, error and where it was searched."""
    (tmp_path / "broken_module_x.py").write_text("import nothing_of_that_name")
    with pytest.raises(ConfigError, match=r"broken_module_x.*nothing_of_that_name"):
        load(tmp_path, "broken_module_x")


def test_user_modules_shadow_nothing(tmp_path: Path) -> None:
    """SEC-13: a json.py in the project is not the json module."""
    (tmp_path / "json.py").write_text("raise SystemExit('hijacked')")
    load(tmp_path, "os")
    assert sys.path[-1] == str(tmp_path)


def test_arguments_must_fit(tmp_path: Path, module: str) -> None:
    """Against the signature, before anything is written."""
    entry = load(tmp_path, module).get(f"{module}:fit")
    catalog.check_arguments(entry, {"lr": 1})
    with pytest.raises(UsageError, match="reserved"):
        catalog.check_arguments(entry, {"run": 1})
    with pytest.raises(UsageError, match="signature"):
        catalog.check_arguments(entry, {"rate": 1})


@pytest.mark.parametrize("wrong", [{"retries": -1}, {"timeout": "soon"}, {"result_ttl": 0}])
def test_wrong_task_declarations_are_refused(wrong: dict[str, Any]) -> None:
    """At import time, in the user's own file."""
    with pytest.raises(UsageError):
        hpcpools.task(**wrong)


def test_the_decorator_survives_its_namesake_package() -> None:
    """Importing hpcpools.training.* rebinds the name; it still declares."""
    importlib.import_module("hpcpools.training.nodeenv")
    with pytest.raises(UsageError):
        hpcpools.training(gpus=-1)
