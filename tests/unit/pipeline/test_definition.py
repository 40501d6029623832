"""What a pipeline file may say: references, order, and errors that name file and stage. Nothing runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcpools import catalog
from hpcpools import config as configuration
from hpcpools.config import Config
from hpcpools.errors import ConfigError
from hpcpools.pipeline import definition
from hpcpools.pipeline.definition import Definition, Reference

TASKS = "tests.unit.pipeline.tasks_for_tests"
GOOD = f"""
name = "nightly"

[stages.prepare]
task = "{TASKS}:prepare"

[stages.train]
task = "{TASKS}:fit"
arguments = {{data = {{"$from" = "prepare", key = "path"}}}}
sweep = {{lr = [0.1, 0.01], seed = [0, 1, 2]}}
time = "2h"

[stages.report]
task = "{TASKS}:report"
after = [{{stage = "train", on_failure = "continue"}}]
arguments = {{found = [{{"$from" = "train", of = "checkpoint"}}]}}
"""


@pytest.fixture(scope="module")
def config() -> Iterator[Config]:
    """A project with the tasks of these tests."""
    file = Path(__file__).parent / "hpcpools.toml"
    yield configuration.parse_text(f'[project]\nmodules = ["{TASKS}"]', file)


def write(folder: Path, text: str) -> Path:
    """A pipeline file."""
    file = folder / "p.toml"
    file.write_text(text)
    return file


def error(config: Config, folder: Path, text: str) -> str:
    """What reading and checking ``text`` says."""
    file = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        definition.check(config, catalog.load(config), definition.read(file), str(file), "local")
    assert str(file) in caught.value.message
    return caught.value.message


def test_a_good_file(config: Config, tmp_path: Path) -> None:
    """References imply edges, a written edge keeps its policy, a sweep has a run per point."""
    found = definition.read(write(tmp_path, GOOD))
    definition.check(config, catalog.load(config), found, "p.toml", "local")
    assert definition.order(found) == ["prepare", "train", "report"]
    assert definition.edges(found.stages["train"]).keys() == {"prepare"}
    assert definition.edges(found.stages["report"])["train"].on_failure == "continue"
    points = found.stages["train"].points()
    assert len(points) == 6
    assert points[1] == {"lr": 0.1, "seed": 1}
    assert found.stages["prepare"].points() == [{}]
    assert definition.options(found.stages["train"]).minutes == 120
    assert definition.descendants(found, "train") == {"train", "report"}


def test_references_are_filled_wherever_they_stand() -> None:
    """In lists and tables, and nothing else changes."""
    value = {"a": [{"$from": "x", "key": "k"}, 1], "b": {"c": {"$from": "y"}}, "d": "$from"}
    assert [found.stage for found in definition.references(value)] == ["x", "y"]

    def look_up(reference: Reference) -> str:
        return f"{reference.stage}.{reference.key}"

    assert definition.fill(value, look_up) == {"a": ["x.k", 1], "b": {"c": "y."}, "d": "$from"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "nightly"', "nmae = 1", "unknown field `nmae`"),
        ('time = "2h"', 'tiem = "2h"', "stages.train"),
        ('time = "2h"', 'tiem = "2h"', "`tiem`"),
        ('time = "2h"', 'time = "soon"', "stages.train"),
        ("[stages.report]", '[stages."../report"]', "stages"),
        ('"$from" = "prepare", key', '"$from" = "prepair", key', "'prepair' is no stage"),
        ('"$from" = "prepare", key', '"$from" = "prepare", kye', "stages.train.arguments: a reference"),
        (f"{TASKS}:prepare", f"{TASKS}:missing", "stages.prepare"),
        (f"{TASKS}:prepare", "os:system", "no declared task"),
        ("lr = [0.1, 0.01]", "rl = [0.1]", "stages.train"),
        ("lr = [0.1, 0.01]", "lr = []", "stages.train.sweep: 0 runs"),
        ("lr = [0.1, 0.01]", "data = [1]", "'data' is an argument and swept"),
        ('on_failure = "continue"', 'on_failure = "ignore"', "ignore"),
        ('"train", of = "checkpoint"', '"prepare", of = "checkpoint"', "prepare is no training"),
        (f'task = "{TASKS}:prepare"', f'task = "{TASKS}:prepare"\ngpus = 2', "gpus is for trainings"),
        (f'task = "{TASKS}:prepare"', f'task = "{TASKS}:prepare"\nafter = ["report"]', "wait for each other"),
        (
            f'task = "{TASKS}:prepare"',
            f'task = "{TASKS}:prepare"\nafter = ["prepare"]',
            "wait for each other",
        ),
        ("[stages.report]", "[stages.report", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_named(config: Config, tmp_path: Path, old: str, new: str, said: str) -> None:
    """Unknown keys, names, references, arguments, cycles: the message names file and place."""
    assert old in GOOD
    assert said in error(config, tmp_path, GOOD.replace(old, new, 1))


def test_a_pipeline_has_stages() -> None:
    """None at all is an error."""
    with pytest.raises(ConfigError, match="0 stages"):
        definition.parse({"stages": {}}, "p.toml")


def test_the_builder_says_what_the_file_says(config: Config, tmp_path: Path) -> None:
    """Python and TOML give the same definition."""
    from hpcpools import Pipeline
    from tests.unit.pipeline import tasks_for_tests as tasks

    built = Pipeline("nightly")
    prepared = built.stage("prepare", tasks.prepare)
    sweep: dict[str, list[float]] = {"lr": [0.1, 0.01], "seed": [0, 1, 2]}
    trained = built.stage("train", tasks.fit, data=prepared.result("path"), sweep=sweep, time="2h")
    built.stage("report", f"{TASKS}:report", after=[trained], found=[trained.checkpoint()])
    there = definition.read(write(tmp_path, GOOD))
    report = definition.Stage(
        task=f"{TASKS}:report",
        after=("train",),
        arguments={"found": [{"$from": "train", "of": "checkpoint"}]},
    )
    assert built.definition() == Definition({**there.stages, "report": report}, "nightly")


def test_options_are_those_of_a_training(config: Config) -> None:
    """A new option of `train` keeps its default in a stage."""
    stage = definition.Stage(task="a:b", gpus=2, partition="big")
    asked = definition.options(stage)
    assert (asked.gpus, asked.partition) == (2, "big")
    assert {field.name for field in dataclasses.fields(asked)} >= {"gpus", "minutes", "partition", "label"}
