"""The entry on the node, without Slurm: the tasks of a batch, their ends, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpcpools import interpreter
from hpcpools.runs import batches
from hpcpools.runs.batches import Batch, BatchDirectory, Carried
from hpcpools.runs.token import new_batch_token

TASKS = """
import os, signal, sys, time
from hpcpools import task

@task
def good(word="x"):
    print("I say", word, flush=True)
    return {"word": word, "libraries": [name for name in ("redis", "rq") if name in sys.modules],
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"), "config": os.environ["HPCPOOLS_CONFIG"]}

@task
def broken():
    raise ValueError("made of cheese")

@task
def odd():
    return {1, 2}

@task
def killed():
    os.kill(os.getpid(), signal.SIGKILL)

@task
def slow(mark, deaf=False):
    if deaf:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    with open(mark, "a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(600)

def undeclared():
    return "ran"
"""


def make(folder: Path, *calls: tuple[str, dict[str, Any]], timeout: float = 60.0) -> BatchDirectory:
    """A batch of calls on disk."""
    (folder / "lanetasks.py").write_text(TASKS)
    root = folder / "runs"
    batch = Batch(
        token=new_batch_token(time.time()),
        lane="lane-test",
        created=time.time(),
        partition="cpu",
        gpus=0,
        cpus=1,
        mem=100,
        minutes=5,
        jobs=tuple(
            Carried(f"j{number}", f"e{number}", "slurm", f"lanetasks:{name}", arguments, timeout)
            for number, (name, arguments) in enumerate(calls)
        ),
        modules=("lanetasks",),
        python_path=(str(folder),),
        workdir=str(folder),
        config=str(folder / "hpcpools.toml"),
    )
    return batches.create(root, batch)


def start(place: BatchDirectory, digest: str = "") -> subprocess.Popen[str]:
    """The entry, as Slurm would start it."""
    return subprocess.Popen(
        interpreter.argv("hpcpools.lane.node", str(place.path), digest or place.digest()),
        env={**os.environ, "SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n1", "CUDA_VISIBLE_DEVICES": "0,1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(place: BatchDirectory, digest: str = "") -> tuple[int, str]:
    """The entry's exit code and output."""
    entry = start(place, digest)
    out, _ = entry.communicate(timeout=60)
    return entry.returncode, out


def ends(place: BatchDirectory) -> list[dict[str, Any]]:
    """The end markers, in order."""
    return [place.ending(number) or {} for number in sorted(place.ended())]


def until(found: Callable[[], Any], what: str, limit: float = 30.0) -> Any:
    """Wait for a condition."""
    give_up = time.monotonic() + limit
    while time.monotonic() < give_up:
        if value := found():
            return value
        time.sleep(0.02)
    raise AssertionError(f"never: {what}")


def pids(mark: Path) -> list[int]:
    """Who wrote into a mark."""
    return [int(line) for line in mark.read_text().splitlines()] if mark.exists() else []


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_every_way_to_end(tmp_path: Path) -> None:
    """Result, exception, no JSON, a signal, an undeclared function: each has its end, and its own log."""
    calls = ("good", "broken", "odd", "killed", "undeclared")
    place = make(tmp_path, *((name, {}) for name in calls))
    assert run(place)[0] == 0
    good, broken, odd, killed, undeclared = ends(place)
    config = str(tmp_path / "hpcpools.toml")
    assert (good["outcome"], good["result"]) == (
        "finished",
        {"word": "x", "libraries": [], "gpus": "", "config": config},
    )
    assert place.log(0).read_text() == "I say x\n"
    assert [end["outcome"] for end in (broken, odd, killed, undeclared)] == ["failed"] * 4
    assert broken["reason"] == "ValueError: made of cheese"
    assert "lanetasks.py" in broken["trace"] and "hpcpools/lane" not in broken["trace"]
    assert "is not JSON" in odd["reason"]
    assert "signal 9" in killed["reason"]
    assert "no declared task" in undeclared["reason"]
    assert place.started(0) == {**(place.started(0) or {}), "job_id": "7", "node": "n1"}
    assert run(place) == (0, "")  # a second start finds everything claimed
    assert ends(place) == [good, broken, odd, killed, undeclared]


def test_a_task_over_its_limit_is_killed(tmp_path: Path) -> None:
    """Also one that is deaf to the alarm; the next one still runs."""
    mark = tmp_path / "mark"
    polite, deaf = {"mark": str(mark)}, {"mark": str(mark), "deaf": True}
    place = make(tmp_path, ("slow", polite), ("slow", deaf), ("good", {}), timeout=1.0)
    assert run(place)[0] == 0
    assert [end.get("reason") for end in ends(place)] == ["ran over its limit of 1 s"] * 2 + [None]
    assert all(gone(pid) for pid in pids(mark))


def test_a_stop_ends_one_task(tmp_path: Path) -> None:
    """One that runs is killed; one that was withdrawn never starts."""
    mark = tmp_path / "mark"
    place = make(tmp_path, ("slow", {"mark": str(mark)}), ("broken", {}), ("good", {}))
    assert place.withdraw(1, "stopped")
    entry = start(place)
    until(lambda: pids(mark), "it runs")
    assert not place.withdraw(0, "stopped")
    place.stop(0)
    entry.communicate(timeout=30)
    assert [end["outcome"] for end in ends(place)] == ["stopped", "stopped", "finished"]
    assert gone(pids(mark)[0])
    assert place.started(1) is None


def test_a_task_that_was_given_up_is_ended(tmp_path: Path) -> None:
    """A node that Slurm lost, but that lives: the end stands, and what still runs is killed."""
    mark = tmp_path / "mark"
    place = make(tmp_path, ("slow", {"mark": str(mark)}))
    entry = start(place)
    until(lambda: pids(mark), "it runs")
    assert place.end(0, "lost", reason="NODE_FAIL")
    entry.communicate(timeout=30)
    assert [end["outcome"] for end in ends(place)] == ["lost"]
    assert gone(pids(mark)[0])


def test_a_node_that_is_taken_away(tmp_path: Path) -> None:
    """SIGTERM: what ran is interrupted, what did not start is returned, at once and without Slurm."""
    mark = tmp_path / "mark"
    place = make(tmp_path, ("slow", {"mark": str(mark)}), ("good", {}))
    entry = start(place)
    task = until(lambda: pids(mark), "it runs")[0]
    entry.send_signal(signal.SIGTERM)
    os.kill(task, signal.SIGTERM)  # Slurm signals all processes of a step
    entry.communicate(timeout=30)
    assert [end["outcome"] for end in ends(place)] == ["interrupted", "returned"]
    assert gone(task)


def test_a_killed_entry_takes_its_task_along(tmp_path: Path) -> None:
    """SIGKILL leaves no copy behind, and no end: Slurm's word decides."""
    mark = tmp_path / "mark"
    place = make(tmp_path, ("slow", {"mark": str(mark)}))
    entry = start(place)
    task = until(lambda: pids(mark), "it runs")[0]
    entry.kill()
    entry.communicate(timeout=30)
    until(lambda: gone(task), "the task ends too")
    assert ends(place) == []
    assert place.started(0)


@pytest.mark.parametrize("how", ["content", "mode", "digest"])
def test_a_forged_batch_runs_nothing(tmp_path: Path, how: str) -> None:
    """Changed after it was submitted, writable by others, or not the one that was submitted."""
    place = make(tmp_path, ("good", {}))
    digest = place.digest()
    if how == "content":
        facts = json.loads(place.file.read_text())
        facts["jobs"][0]["task"] = "os:getcwd"
        place.file.write_text(json.dumps(facts))
    elif how == "mode":
        place.file.chmod(0o666)
    else:
        digest = "0" * 64
    code, out = run(place, digest)
    assert code == 77
    assert "batch.json" in out
    assert place.claimed() == set()
