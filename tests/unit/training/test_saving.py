"""The time to save: what checkpoints took, against the warning, GraceTime and KillWait."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from hpcpools import atomic, config
from hpcpools.config import Config
from hpcpools.errors import SlurmUnavailableError
from hpcpools.runs import checkpoints, directory
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Request, Resources
from hpcpools.runs.token import new_token
from hpcpools.slurm.command import Runner
from hpcpools.training import saving
from hpcpools.training.saving import Measured, Notice

SETTINGS = """
KillWait                = 5 sec
PreemptMode             = REQUEUE
PreemptType             = preempt/partition_prio
SlurmctldParameters     = preempt_send_user_signal
"""
PARTITIONS = """\
PartitionName=gpu Default=YES GraceTime=0 Nodes=n[1-3] PriorityTier=10 PreemptMode=OFF
PartitionName=low Default=NO GraceTime=60 Nodes=n[2-3] PriorityTier=1 PreemptMode=REQUEUE
PartitionName=lowest Default=NO GraceTime=20 Nodes=n3 PriorityTier=0 PreemptMode=CANCEL
"""


def request(lead: int = 90, minutes: int = 60, partition: str = "low", target: str = "m:train") -> Request:
    """One training."""
    asked = Resources(gpus=1, minutes=minutes, partition=partition, signal_lead=lead)
    return Request(new_token(time.time()), time.time(), "slurm", asked, target=target)


def short(needs: float, asked: Request, notice: Notice) -> list[str]:
    """The warnings' texts."""
    known = Measured(needs, 7, "hp-x")
    return [finding.text for finding in saving.compare(asked, notice, known) if finding.short]


def test_enough_time_is_said_with_its_numbers() -> None:
    """A checkpoint of 4 s fits everywhere."""
    notice = Notice(kill_wait=30, early=True, grace=60)
    found = saving.compare(request(), notice, Measured(4.0, 7, "hp-x"))
    assert not any(finding.short for finding in found)
    text = "\n".join(finding.text for finding in found)
    for word in (
        "takes 4 s",
        "7 in hp-x",
        "90 s before",
        "GraceTime 60 s + KillWait 30 s",
        "leaves KillWait, 30 s",
    ):
        assert word in text


def test_each_time_that_is_too_short_says_what_to_do() -> None:
    """The warning before the limit; GraceTime and KillWait together; KillWait alone."""
    notice = Notice(kill_wait=5, early=False, grace=60)
    lead, grace, kill = short(100.0, request(), notice)
    assert "90 s" in lead
    assert "set training.signal_lead to 230 s" in lead
    assert "GraceTime 60 s + KillWait 5 s" in grace
    assert "TERM alone" in grace
    assert "5 s" in kill
    assert short(64.0, request(), notice) == [kill]
    assert short(64.0, request(), Notice(100, True, None)) == []
    assert "--time" in short(100.0, request(lead=60, minutes=2), Notice(100, True, None))[0]


def test_nothing_measured_nothing_claimed() -> None:
    """The site's facts, and no warning."""
    found = saving.compare(request(), Notice(5, True, None), None)
    assert not any(finding.short for finding in found)
    assert not any("preempt" in finding.text for finding in found)


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    """As by default."""
    (tmp_path / "hpcpools.toml").write_text("")
    return config.load(tmp_path / "hpcpools.toml")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """scontrol, and a file that counts how often it was called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (tmp_path / "config.txt").write_text(SETTINGS)
    (tmp_path / "partitions.txt").write_text(PARTITIONS)
    program = folder / "scontrol"
    program.write_text(
        f'#!/bin/sh\necho x >> {tmp_path}/calls\ncase "$*" in *partition) cat {tmp_path}/partitions.txt;;'
        f" *) cat {tmp_path}/config.txt;; esac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.defpath}")
    return tmp_path / "calls"


def saved(settings: Config, asked: Request, seconds: float) -> RunDirectory:
    """A run of that request with one checkpoint that took so long."""
    run = directory.create(settings.root, asked)
    with checkpoints.writing(run.checkpoints, 1, time.time(), {}) as folder:
        (folder / "x").write_text("x")
    manifest = checkpoints.complete(run.checkpoints)[0].path / "manifest.json"
    atomic.write_json(manifest, {**atomic.read_json(manifest), "seconds": seconds})  # type: ignore[dict-item]
    return run


def test_train_warns_from_the_last_run_and_asks_once_a_day(settings: Config, slurm: Path) -> None:
    """No measurement, no question; then two, whose answer is kept; other trainings do not count."""
    assert saving.warnings(settings, request()) == []
    saved(settings, request(target="m:other"), 500.0)
    assert saving.warnings(settings, request()) == []
    assert not slurm.exists()
    run = saved(settings, request(), 80.0)
    first, grace, kill = saving.warnings(settings, request())
    assert run.token in first
    assert "GraceTime 60 s + KillWait 5 s" in grace
    assert "KillWait, 5 s" in kill
    assert len(saving.warnings(settings, request(partition="lowest"))) == 3
    assert len(saving.warnings(settings, request(partition="gpu"))) == 2
    assert slurm.read_text().count("x") == 2
    kept = settings.root / ".site.json"
    atomic.write_json(kept, {**atomic.read_json(kept), "at": time.time() - 90000})  # type: ignore[dict-item]
    saving.warnings(settings, request())
    assert slurm.read_text().count("x") == 4


def test_of_several_partitions_the_hastiest_counts(settings: Config, slurm: Path) -> None:
    """Slurm may choose any of them."""
    settings.root.mkdir()
    runner = Runner({"PATH": os.environ["PATH"]})
    assert saving.read_notice(settings, runner, "gpu,low,lowest") == Notice(5, True, 20)
    assert saving.read_notice(settings, runner, "") == Notice(5, True, None)
    assert saving.read_notice(settings, runner, "new") == Notice(5, True, None)


def test_a_silent_site_is_no_obstacle(settings: Config, slurm: Path, tmp_path: Path) -> None:
    """`train` goes on without the warning; a damaged record is asked for again."""
    saved(settings, request(), 80.0)
    (settings.root / ".site.json").write_text("{nonsense")
    assert len(saving.warnings(settings, request())) == 3
    (settings.root / ".site.json").unlink()
    (tmp_path / "bin" / "scontrol").write_text("#!/bin/sh\nexit 1\n")
    assert saving.warnings(settings, request()) == []
    with pytest.raises(SlurmUnavailableError):
        saving.read_notice(settings, Runner({"PATH": os.environ["PATH"]}), "")
