"""Runs of hpcpools through every state of docs/architecture.md: the same on both stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.stage import Stage
from tests.project import Project


def facts(play: Project, token: str) -> tuple[Any, ...]:
    """What a run's end comes down to."""
    shown = play.json("show", token)
    return shown["state"], shown["cause"], shown["exit_code"], len(shown["attempts"])


def test_pending_running_completed(play: Project, stage: Stage, tmp_path: Path) -> None:
    """It waits with Slurm's reason, runs, and completes with its result."""
    go = tmp_path / "go"
    blocker = stage.submit("sleep 600", "--exclusive", "--nodes=3", "--time=5")
    stage.until_state(blocker, "RUNNING")
    token = play.train("usertasks:hold", f"until={go}")
    play.until(lambda: play.json("show", token)["reason"] == "Resources", "Slurm's reason")
    assert play.state(token) == "PENDING"
    stage.run("scancel", blocker)
    play.until_state(token, "RUNNING")
    go.write_text("")
    play.cli("wait", token)
    assert facts(play, token) == ("COMPLETED", "", 0, 1)
    assert play.json("result", token) == "released"
    job = play.json("show", token)["job_id"]
    stage.until_accounted(
        job, "COMPLETED exit=0 submit start end nodes [batch COMPLETED exit=0] [0 COMPLETED exit=0]"
    )


def test_refused(play: Project, stage: Stage) -> None:
    """Slurm says no: one clear line, nothing queued, nothing left behind."""
    done = play.cli("train", "usertasks:see", "--constraint", "nosuch", check=False)
    assert (done.returncode, "Invalid feature specification" in done.stderr) == (4, True)
    assert not list(play.root.glob("hp-*"))
    assert stage.living() == []


def test_forgotten_by_slurm(bare_play: Project, bare_stage: Stage, tmp_path: Path) -> None:
    """The node and the controller's memory are gone, there is no accounting, no end marker: LOST, in time."""
    token = bare_play.train("usertasks:hold", f"until={tmp_path / 'never'}")
    bare_play.until_state(token, "RUNNING")
    bare_stage.forget(bare_play.json("show", token)["job_id"])
    bare_play.until_state(token, "LOST", timeout=90)
    shown = bare_play.json("show", token)
    assert (shown["cause"], shown["reason"]) == ("lost", "no record in Slurm and no end marker")
