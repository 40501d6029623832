"""SEC-13: a file that somebody leaves where we run is not imported in place of a module."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcpools import deploy, interpreter
from hpcpools.config import load
from tests.project import Project

ENTRIES = (
    "hpcpools", "hpcpools.training.node", "hpcpools.training.element", "hpcpools.training.rank",
    "hpcpools.training.sampler", "hpcpools.training.local", "hpcpools.gpu.probe",
    "hpcpools.lane.node", "hpcpools.services.run", "hpcpools.services.daemon",
)  # fmt: skip
NAMES = (
    "json",
    "random",
    "click",
    "redis",
    "rq",
    "msgspec",
    "submitit",
    "hpcpools",
    "torch",
    "encodings",
    "pynvml",
)
EVIL = "open({marker!r}, 'a').write(__name__ + '\\n')\nraise SystemExit('evil')\n"


@pytest.fixture
def marker(laptop: Project) -> Iterator[Path]:
    """The project's own folder is full of modules that must not be found there."""
    marker = laptop.folder.parent / "marker"
    for name in NAMES:
        (laptop.folder / f"{name}.py").write_text(EVIL.format(marker=str(marker)))
    yield marker
    for name in NAMES:
        (laptop.folder / f"{name}.py").unlink()


def test_sec_13_the_trap_works(laptop: Project, marker: Path) -> None:
    """Python does look in the current folder, unless it is told not to."""
    subprocess.run([sys.executable, "-c", "import json"], cwd=laptop.folder, capture_output=True, check=False)
    assert marker.exists()


@pytest.mark.parametrize("flag", [True, False] if interpreter.HAS_SAFE_PATH else [False])
def test_sec_13_no_entry_imports_from_where_it_runs(
    laptop: Project, marker: Path, monkeypatch: pytest.MonkeyPatch, flag: bool
) -> None:
    """Every module that we start, as we start it with the flag -P and without, in a folder full of traps."""
    monkeypatch.setattr(interpreter, "HAS_SAFE_PATH", flag)
    processes = [
        subprocess.Popen(
            interpreter.argv(module, "x", "0", "x"), cwd=laptop.folder, env=laptop.env,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for module in ENTRIES
    ]  # fmt: skip
    said = {
        module: process.communicate(timeout=60)[1] for module, process in zip(ENTRIES, processes, strict=True)
    }
    assert not marker.exists(), marker.read_text()
    assert not [module for module, words in said.items() if "evil" in words or "No module named" in words]


def test_sec_13_the_whole_way(laptop: Project, marker: Path) -> None:
    """The command in that folder, the services that it starts, a short task, and a training by torchrun."""
    program = Path(sys.executable).with_name("hpcpools")
    if not program.exists():
        pytest.skip("hpcpools is not installed beside this Python")

    def hpcpools(*words: str) -> str:
        done = subprocess.run(
            [program, *words], cwd=laptop.folder, env=laptop.env, capture_output=True, text=True,
            check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout.strip()

    hpcpools("up")
    hpcpools("enqueue", "usertasks:evaluate", "--wait")
    hpcpools("wait", hpcpools("train", "usertasks:learn", "steps=1", "--launcher", "elastic"))
    hpcpools("down")
    assert not marker.exists(), marker.read_text()


def test_sec_13_files_for_others_start_us_the_same_way(
    laptop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd, cron and supervisord get our absolute interpreter and its flag, or what stands for it."""
    laptop.configure('[services]\nruntime_dir = "rt"\n')
    config = load(laptop.folder / "hpcpools.toml")
    for flag in (True, False):
        monkeypatch.setattr(interpreter, "HAS_SAFE_PATH", flag)
        words = " ".join(interpreter.argv("hpcpools", "--config", config.file, "up"))
        assert os.path.isabs(interpreter.argv("x")[0])  # noqa: PTH117
        for kind in ("user.service", "crontab", "supervisord.conf"):
            assert words in deploy.render(config, kind)
