"""The load that hpcpools puts on Slurm, counted by programs that stand in for it (LOAD-1 to LOAD-6)."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpcpools import config
from hpcpools.config import Config
from hpcpools.runs import directory, token
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Request, Resources
from hpcpools.runs.view import read_view
from hpcpools.slurm.command import Runner
from hpcpools.training import submit, watch
from tests.unit.training.test_watch import FakeSlurm, job, pending

ASKING = ("squeue", "sacct", "scontrol", "sinfo")


@pytest.fixture
def slurm(tmp_path: Path) -> FakeSlurm:
    """Fake Slurm; what else a command line may call is counted, too."""
    fake = FakeSlurm(tmp_path / "bin")
    for name in ("scontrol", "sinfo", "sbatch", "srun"):
        line = f"echo {name} >> {fake.folder}/calls\n" if name in ASKING else ""
        (fake.folder / name).write_text(f"#!/bin/sh\n{line}exit 0\n")
        (fake.folder / name).chmod(0o755)
    return fake


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    """As by default."""
    (tmp_path / "hpcpools.toml").write_text("")
    return config.load(tmp_path / "hpcpools.toml")


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand durable runs take long to write; how durable they are does not matter here."""
    monkeypatch.setattr(os, "fsync", lambda _fd: None)


def test_the_interval() -> None:
    """LOAD-2: five times what the last poll took, 30 s at least, 300 s at most, ±20 %."""
    assert watch.pace(30, 0.1, 0.5) == pytest.approx(30)
    assert watch.pace(30, 0.1, 0) == pytest.approx(24)
    assert watch.pace(30, 0.1, 1) == pytest.approx(36)
    assert watch.pace(30, 20, 0) + 20 >= 100
    assert watch.pace(30, 500, 0.5) == pytest.approx(300)
    assert watch.pace(600, 1, 0.5) == pytest.approx(600)


def test_twenty_readers_for_ten_minutes(slurm: FakeSlurm, settings: Config) -> None:
    """LOAD-1: 20 readers that look every 5 s cost 21 squeue in ten minutes, and no sacct."""
    random.seed(7)
    runs = [pending(settings, str(number)) for number in range(5)]
    slurm.show(*(job(run, str(number), "RUNNING") for number, run in enumerate(runs)))
    start, clock = time.time(), [0.0]
    runner = Runner({"PATH": str(slurm.folder)}, clock=lambda: clock[0])
    for step in range(120):
        for reader in range(20):
            clock[0] = start + 5 * step + reader / 4
            seen = watch.refresh(settings, runner, now=clock[0])
            assert seen.as_of is not None
            assert clock[0] - seen.as_of <= 45
    calls = slurm.calls()
    assert 15 <= calls.count("squeue") <= 21
    assert set(calls) == {"squeue"}


def test_many_jobs_vanish_at_once(slurm: FakeSlurm, settings: Config, unsynced: None) -> None:
    """LOAD-3: 100 jobs leave the queue; all are settled within five minutes with at most 3 sacct."""
    runs = [pending(settings, str(number)) for number in range(100)]
    slurm.show()
    start, clock = time.time(), [0.0]
    runner = Runner({"PATH": str(slurm.folder)}, clock=lambda: clock[0])
    for step in range(31):
        clock[0] = start + 10 * step
        watch.refresh(settings, runner, now=clock[0])
    views = [read_view(run) for run in runs]
    assert all(view.state.is_final or view.restart_kind for view in views)
    assert slurm.calls().count("sacct") <= 3
    assert slurm.calls().count("squeue") <= 14


def test_unsettled_submissions_share_one_look(slurm: FakeSlurm, settings: Config, unsynced: None) -> None:
    """Fifty runs whose sbatch gave no clear answer: upkeep settles them with one squeue and one sacct."""
    now = time.time()
    runs = []
    for number in range(50):
        created = now - 1000 + number
        request = Request(token.new_token(created), created, "slurm", Resources(), command=("true",))
        run = directory.create(settings.root, request)
        run.next_submission(created)
        runs.append(run)
    slurm.show(*(job(run, str(number), "PENDING") for number, run in enumerate(runs[:25])))
    runner = slurm.runner
    done = [submit.settle_old(settings, runner, RunDirectory(settings.root, run.token), now) for run in runs]
    assert done == ["adopted"] * 25 + ["failed"] * 25
    assert sorted(slurm.calls()) == ["sacct", "squeue"]


def test_a_thousand_jobs_and_twenty_terminals(
    slurm: FakeSlurm, settings: Config, tmp_path: Path, unsynced: None
) -> None:
    """LOAD-1: twenty real `status --watch` over 1000 live runs: one squeue per interval, none per job."""
    (tmp_path / "hpcpools.toml").write_text('[slurm]\npoll_interval = "4s"\n')
    runs = [pending(settings, str(number)) for number in range(1000)]
    slurm.show(*(job(run, str(number), "PENDING", Reason="Priority") for number, run in enumerate(runs)))
    env = {
        **os.environ,
        "PATH": f"{slurm.folder}:/usr/bin:/bin",
        "HPCPOOLS_CONFIG": str(tmp_path / "hpcpools.toml"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    started = time.monotonic()
    screens = []
    readers = []
    for number in range(20):
        screens.append((tmp_path / f"screen-{number}").open("wb"))
        argv = [sys.executable, "-m", "hpcpools", "status", "--watch", "10"]
        readers.append(subprocess.Popen(argv, cwd=tmp_path, env=env, stdout=screens[-1], stderr=screens[-1]))
    try:
        while min(screen(tmp_path, number).count("TRAINING  Slurm") for number in range(20)) < 1:
            assert time.monotonic() - started < 120
            assert [reader.poll() for reader in readers] == [None] * 20
            time.sleep(0.5)
    finally:
        for reader in readers:
            reader.send_signal(signal.SIGINT)
        codes = [reader.wait(30) for reader in readers]
        for file in screens:
            file.close()
    elapsed = time.monotonic() - started
    assert codes == [0] * 20  # Ctrl-C is how it ends
    shown = [screen(tmp_path, number) for number in range(20)]
    assert not any("\x1b" in text or "Traceback" in text for text in shown)  # piped: no colours, no cursor
    assert any(
        "TRAINING  Slurm, as of" in text for text in shown
    )  # whoever came before the first answer says none
    calls = slurm.calls()
    assert set(calls) == {"squeue"}
    assert 1 <= len(calls) <= elapsed / (4 * 0.8) + 1


def screen(folder: Path, number: int) -> str:
    """What one reader printed so far."""
    return (folder / f"screen-{number}").read_text(errors="replace")


def test_fresh_is_rare(slurm: FakeSlurm, settings: Config, tmp_path: Path) -> None:
    """LOAD-6: `--fresh` three times in a row asks Slurm once; without it the shared answer is good enough."""
    run = pending(settings, "7")
    slurm.show(job(run, "7", "RUNNING"))
    env = {
        **os.environ,
        "PATH": f"{slurm.folder}:/usr/bin:/bin",
        "HPCPOOLS_CONFIG": str(tmp_path / "hpcpools.toml"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }

    def cli(*words: str) -> None:
        argv = [sys.executable, "-m", "hpcpools", *words]
        subprocess.run(argv, cwd=tmp_path, env=env, check=True, capture_output=True, timeout=60)

    cli("runs")
    cli("show", run.token)
    assert slurm.calls() == ["squeue"]
    began = time.monotonic()
    for words in (("status", "--fresh"), ("runs", "--fresh"), ("show", run.token, "--fresh")):
        cli(*words)
    assert len(slurm.calls()) <= 2 + (time.monotonic() - began) // 10
