"""The run directory: durable before Slurm, one claim, complete checkpoints, nothing half-made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpcpools import atomic
from hpcpools.errors import HpcpoolsError, NotFoundError, PermissionsError
from hpcpools.runs import attempts, checkpoints, directory, metrics, token
from hpcpools.runs.attempts import Place
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Request, Resources
from hpcpools.runs.states import Cause, RunState
from hpcpools.runs.view import read_view


def make(root: Path) -> RunDirectory:
    """A new run."""
    now = time.time()
    return directory.create(root, Request(token.new_token(now), now, "slurm", Resources(), command=("true",)))


def place(job_id: str = "7", restart: int = 0) -> Place:
    """A node's account of itself."""
    return Place("lab", job_id, restart, "n1", os.getpid(), 1, "boot")


def test_tokens_sort_by_time_and_are_no_paths() -> None:
    """``hp-`` and 26 characters; anything else is no run."""
    early, late = token.new_token(1_000.0), token.new_token(2_000_000_000.0)
    assert token.is_token(early)
    assert early < late
    assert abs(token.created_at(late) - 2_000_000_000.0) < 0.01
    for bad in ("../x", "hp-" + "0" * 25, "hp-" + "u" * 26, early + "/..", early + "\n"):
        with pytest.raises(NotFoundError):
            token.check_token(bad)


def test_a_run_is_private_and_live(tmp_path: Path) -> None:
    """0700 directories, a live mark, SUBMITTING; a final state moves the mark to the ended ones."""
    run = make(tmp_path / "runs")
    assert run.path.stat().st_mode & 0o777 == 0o700
    assert run.run_file.stat().st_mode & 0o777 == 0o600
    assert directory.live_tokens(run.root) == [run.token]
    assert read_view(run).state is RunState.SUBMITTING
    run.record(RunState.FAILED, time.time(), cause=Cause.USER_ERROR.value)
    assert directory.live_tokens(run.root) == []
    assert directory.ended_tokens(run.root) == [run.token]
    assert read_view(run).cause is Cause.USER_ERROR


def test_an_unwritable_root_leaves_nothing(tmp_path: Path) -> None:
    """A root that is a file: a clear error, nothing made."""
    (tmp_path / "runs").write_text("")
    with pytest.raises(HpcpoolsError, match="cannot write"):
        make(tmp_path / "runs" / "below")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_root_that_others_can_write_is_refused(tmp_path: Path) -> None:
    """SEC-6: group or world write means that strangers could swap a payload."""
    root = tmp_path / "runs"
    root.mkdir()
    root.chmod(0o777)
    with pytest.raises(PermissionsError):
        make(root)
    assert list(root.iterdir()) == []


def test_a_full_disk_is_named_before_anything_is_submitted(tmp_path: Path) -> None:
    """REL-8: no run, and so no Slurm job, without room for its record."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small tmpfs")
    root = tmp_path / "small"
    root.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(root)], check=True)
    try:
        with pytest.raises(HpcpoolsError, match=str(root)):
            make(root)
        assert directory.tokens(root) == []
        assert directory.live_tokens(root) == []
    finally:
        subprocess.run(["umount", str(root)], check=True)


def test_only_one_start_wins(tmp_path: Path) -> None:
    """The same job twice, another job of the same submission, an older submission: all lose."""
    run = make(tmp_path)
    assert run.next_submission(1.0) == 0
    assert attempts.claim(run, 0, place("7"), 1.0) is not None
    assert attempts.claim(run, 0, place("7"), 2.0) is None
    assert attempts.claim(run, 0, place("8"), 2.0) is None
    assert attempts.claim(run, 0, place("7", restart=1), 3.0) is not None
    assert run.next_submission(4.0) == 1
    assert attempts.claim(run, 0, place("7", restart=2), 5.0) is None
    assert attempts.claim(run, 1, place("9"), 6.0) is not None
    assert [attempt.job_id for attempt in attempts.read_attempts(run)] == ["7", "7", "9"]


def test_a_cancelled_run_does_not_start(tmp_path: Path) -> None:
    """Cancelled while nobody knew whether Slurm had it: the node honours it."""
    run = make(tmp_path)
    run.next_submission(1.0)
    run.cancel(2.0)
    assert attempts.claim(run, 0, place(), 3.0) is None


def test_the_view_follows_the_node(tmp_path: Path) -> None:
    """RUNNING from the claim, COMPLETED from the end marker, without any Slurm command."""
    run = make(tmp_path)
    run.next_submission(1.0)
    run.submitted(0, "7", "lab", 1.0)
    run.record(RunState.PENDING, time.time())
    folder = attempts.claim(run, 0, place(), time.time())
    assert folder is not None
    assert read_view(run).state is RunState.RUNNING
    attempts.end(folder, "completed", time.time())
    view = read_view(run)
    assert (view.state, view.job_id) == (RunState.COMPLETED, "7")


def test_torn_and_foreign_lines_are_passed_over(tmp_path: Path) -> None:
    """A crash may leave half a line in a line file."""
    file = tmp_path / "lines"
    atomic.append_line(file, {"a": 1})
    with file.open("ab") as raw:
        raw.write(b'[1]\n\xff\n{"b": NaN}\n{"c": 123456789012345678901234567890}\n{"d": ')
    found = atomic.read_lines(file)
    assert [list(line) for line in found] == [["a"], ["b"], ["c"]]
    assert found[2] == {"c": 123456789012345678901234567890} and found[1]["b"] != found[1]["b"]
    assert next(atomic.newest_lines(file)) == found[2]
    assert list(atomic.newest_lines(tmp_path / "missing")) == []


def test_metrics_are_strict_json_and_summarised(tmp_path: Path) -> None:
    """NaN is text in the file and a number again in the summary."""
    file = tmp_path / "metrics.jsonl"
    metrics.log(file, 1.0, 1, 10, {"loss": float("nan")})
    metrics.log(file, 2.0, 2, None, {"lr": 0.1})
    assert "NaN" not in file.read_text()
    found = metrics.progress(file)
    assert found is not None
    assert (found.step, found.total, found.at) == (2, 10, 2.0)
    assert found.values["loss"] != found.values["loss"]
    assert found.values["lr"] == 0.1


def write(folder: Path, step: int, text: str = "x") -> None:
    """A small checkpoint."""
    with checkpoints.writing(folder, step, 1.0, {"loss": 1 / step}) as tmp:
        (tmp / "state.pt").write_text(text)


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path) -> None:
    """An error in the block leaves no trace; a bit flip is found and the one before is used."""
    write(tmp_path, 1)
    write(tmp_path, 2)
    with pytest.raises(RuntimeError), checkpoints.writing(tmp_path, 3, 1.0, {}) as tmp:
        (tmp / "state.pt").write_text("half")
        raise RuntimeError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000001", "step-000000002"]
    (tmp_path / "step-000000002" / "state.pt").write_text("y")
    newest = checkpoints.newest_valid(tmp_path)
    assert newest is not None
    assert newest.step == 1


def test_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    """A resumed run may write a step that is there."""
    write(tmp_path, 1, "old")
    write(tmp_path, 1, "new")
    newest = checkpoints.newest_valid(tmp_path)
    assert newest is not None
    assert (newest.path / "state.pt").read_text() == "new"


WRITER = """
import sys
from pathlib import Path
from hpcpools.runs import checkpoints
folder = Path(sys.argv[1])
step = max([c.step for c in checkpoints.complete(folder)], default=0)
while True:
    step += 1
    with checkpoints.writing(folder, step, 1.0, {"loss": 1.0}) as tmp:
        for name in "abc":
            (tmp / name).write_bytes(bytes([step % 256]) * 200_000)
    print(step, flush=True)
"""


def test_kill_at_any_instant_leaves_a_valid_checkpoint(tmp_path: Path) -> None:
    """kill -9 of a writer, 20 times: the newest that verifies is the last one reported, or newer."""
    for _ in range(20):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        last = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().split()
        writer.wait()
        checkpoints.clear_unfinished(tmp_path)
        newest = checkpoints.newest_valid(tmp_path)
        assert newest is not None
        assert newest.step >= max([last, *map(int, rest)])
    assert all(path.name.startswith("step-") for path in tmp_path.iterdir())


def test_rerun_after_a_kill_always_yields_a_result(tmp_path: Path) -> None:
    """REL-16: a leftover temporary file of an earlier write is no obstacle."""
    target = tmp_path / "result.json"
    (tmp_path / ".result.json.0123456789ab.tmp").write_text("half")
    atomic.write_json(target, {"ok": True})
    assert atomic.read_json(target) == {"ok": True}
