"""When Slurm does not answer: exactly one job per run, and no state invented."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from tests.cluster.cluster import Cluster
from tests.parity.stage import Stage
from tests.project import Project


def marks(path: Path) -> list[str]:
    """What the trainings themselves wrote, outside hpcpools."""
    return [line.split()[1] for line in path.read_text().splitlines()] if path.exists() else []


def sbatch_runs(site: Project) -> bool:
    """An sbatch process of ours is there; it has a session of its own and outlives its caller."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if words[0].endswith(b"sbatch") and any(bytes(site.root) in word for word in words):
                return True
    return False


def test_a_timed_out_sbatch_is_found_not_repeated(play: Project, stage: Stage, tmp_path: Path) -> None:
    """REL-10: sbatch says "Socket timed out", the job exists: one job, one run, acknowledged."""
    go, log = tmp_path / "go", tmp_path / "marks"
    with stage.accepting_without_answer():
        submission = play.start("train", "usertasks:hold", f"until={go}", f"mark={log}")
        live = play.root / ".live"
        events = play.until(
            lambda: next(
                (path for path in play.root.glob("hp-*/events.jsonl") if "unsettled" in path.read_text()),
                None,
            ),
            "sbatch times out",
        )
    out, _ = submission.communicate(timeout=90)
    token = events.parent.name
    assert submission.returncode == 0, out
    assert token in out
    assert [path.name for path in live.iterdir()] == [token]
    play.until(lambda: marks(log) == ["start"], "it starts")
    assert len(stage.living()) == 1
    go.write_text("")
    play.cli("wait", token)
    assert marks(log) == ["start", "end"]
    assert len(stage.run("squeue", "--me", "-t", "all", "-h", "-o", "%k").stdout.split(token)) == 2


def test_a_frozen_controller_leaves_the_run_submitting(
    site: Project, cluster: Cluster, tmp_path: Path
) -> None:
    """Nobody can say: exit 69, SUBMITTING; once Slurm answers, the job is adopted, once."""
    go, log = tmp_path / "go", tmp_path / "marks"
    site.env["HPCPOOLS_SLURM__SUBMIT_LOOKUPS"] = "[1]"
    cluster.pause_controller()
    done = site.cli("train", "usertasks:hold", f"until={go}", f"mark={log}", check=False)
    assert done.returncode == 69, done.stderr
    assert "SUBMITTING" in done.stderr
    token = next(site.root.glob("hp-*")).name
    shown = site.cli("status").stdout
    assert "SUBMITTING" in shown
    assert "does not answer" in shown
    cluster.resume_controller()
    site.until_state(token, "RUNNING", timeout=90)
    site.until(lambda: marks(log) == ["start"], "it starts")
    go.write_text("")
    site.cli("wait", token)
    assert marks(log) == ["start", "end"]


def test_a_killed_command_line_doubles_nothing(site: Project, cluster: Cluster, tmp_path: Path) -> None:
    """kill -9 while sbatch hangs: the job that exists is adopted by the next look."""
    go, log = tmp_path / "go", tmp_path / "marks"
    cluster.pause_controller()
    submission = site.start("train", "usertasks:hold", f"until={go}", f"mark={log}")
    site.until(lambda: list(site.root.glob("hp-*/submitit/*.sbatch")), "the script is written")
    site.until(lambda: sbatch_runs(site), "sbatch waits for the frozen controller")
    os.kill(submission.pid, signal.SIGKILL)
    submission.communicate()
    cluster.resume_controller()
    token = next(site.root.glob("hp-*")).name
    cluster.wait(lambda: len(cluster.jobs()) == 1, 30, "the job that sbatch left")
    site.until_state(token, "RUNNING")
    site.until(lambda: marks(log) == ["start"], "it starts")
    go.write_text("")
    site.cli("wait", token)
    assert marks(log) == ["start", "end"]


def test_a_stopped_controller_then_back(play: Project, stage: Stage, tmp_path: Path) -> None:
    """`status` says "as of"; a submission is refused with nothing left behind; afterwards all is right."""
    go = tmp_path / "go"
    token = play.train("usertasks:hold", f"until={go}")
    play.until_state(token, "RUNNING")
    stage.stop_controller()
    play.until(lambda: "does not answer" in play.cli("status").stdout, "status says so")
    assert play.state(token) == "RUNNING"
    assert "ago" in play.cli("show", token).stdout
    before = sorted(path.name for path in play.root.glob("hp-*"))
    done = play.cli("train", "usertasks:learn", check=False, timeout=180)
    assert done.returncode == 69
    after = sorted(path.name for path in play.root.glob("hp-*"))
    assert after == before or "SUBMITTING" in done.stderr
    stage.start_controller()
    go.write_text("")
    play.cli("wait", token)
    assert play.state(token) == "COMPLETED"


def test_an_end_marker_needs_no_slurm(play: Project, stage: Stage, tmp_path: Path) -> None:
    """The training ends while the controller is down: COMPLETED at once, from the shared files."""
    go = tmp_path / "go"
    token = play.train("usertasks:hold", f"until={go}")
    play.until_state(token, "RUNNING")
    stage.stop_controller()
    go.write_text("")
    play.until_state(token, "COMPLETED", timeout=30)
    stage.start_controller()
