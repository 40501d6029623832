"""Real processes of the fake's jobs: what they see, the signals they get, and that none is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcpools.testing import Cluster, FakeSlurm
from hpcpools.testing.world import Step
from hpcpools.training import nodeenv

Submit = Callable[..., str]
LISTENS = """
import os, signal, sys, time
def heard(number, frame):
    print(signal.Signals(number).name, flush=True)
    if "leave" in sys.argv and number == signal.SIGUSR2:
        sys.exit(0)
for one in (signal.SIGUSR2, signal.SIGTERM):
    signal.signal(one, heard)
print("ready", os.environ.get("SLURM_RESTART_COUNT", "0"), flush=True)
while True:
    time.sleep(0.05)
"""


@pytest.fixture
def listens(tmp_path: Path) -> str:
    """A program that tells its signals; with ``leave`` it leaves when warned."""
    path = tmp_path / "listens.py"
    path.write_text(LISTENS)
    return str(path)


def until(found: Callable[[], object], timeout: float = 20.0) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + timeout
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_a_job_sees(fake_slurm: FakeSlurm, submit: Submit, tmp_path: Path) -> None:
    """Slurm's variables, its own log, and the exit code of its worst task."""
    seen = "$SLURM_PROCID $SLURM_NODEID $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES"
    script = (
        "echo $SLURM_JOB_ID $SLURM_JOB_NODELIST $SLURM_NTASKS $SLURM_JOB_GPUS\n"
        f"srun --output=%j_%t.txt bash -c 'echo {seen}; exit $((SLURM_PROCID * 3))'"
    )
    asked = ("--nodes=2", "--ntasks-per-node=1", "--exclusive", "--gpus-per-node=2")
    job = submit(*asked, "--output=%x-%j.log", script=script)
    fake_slurm.start()
    ended = fake_slurm.wait(job)
    assert (ended.state, ended.exit_code, ended.nodes) == ("FAILED", 3, ("g1", "g2"))
    log = (tmp_path / f"job.sh-{job}.log").read_text().splitlines()
    assert log == [f"{job} g[1-2] 2 0,1,2,3", "srun: error: g2: task 1: Exited with exit code 3"]
    assert [(tmp_path / f"{job}_{task}.txt").read_text() for task in (0, 1)] == [
        "0 0 g1 0,1\n",
        "1 1 g2 0,1\n",
    ]


def test_a_bad_task_ends_the_others(fake_slurm: FakeSlurm, submit: Submit) -> None:
    """Where srun was told so."""
    words = "bash -c '[ $SLURM_PROCID = 0 ] && sleep 600; exit 3'"
    job = submit("--ntasks=2", "--mem=1", script=f"srun --kill-on-bad-exit {words}")
    fake_slurm.start()
    assert fake_slurm.wait(job).exit_code == 137


def test_a_warning_comes_first(fake_slurm: FakeSlurm, submit: Submit, listens: str, tmp_path: Path) -> None:
    """One that leaves when warned ends well, before its limit; time waited for it."""
    job = submit("--time=10", "--signal=USR2@60", "--output=out", script=f"srun python3 {listens} leave")
    fake_slurm.advance(3600)
    assert (tmp_path / "out").read_text().split() == ["ready", "0", "SIGUSR2"]
    record = next(one for one in fake_slurm._store.read().past if str(one.id) == job)
    assert (record.state, record.end - record.start) == ("COMPLETED", 540)
    assert fake_slurm.job(job) is None  # an hour later squeue has forgotten it


@pytest.mark.fake_slurm(cluster=Cluster(kill_wait=1))
def test_one_that_hears_nothing(fake_slurm: FakeSlurm, submit: Submit, listens: str, tmp_path: Path) -> None:
    """USR2, TERM, KILL: each in its time, and the step tells how it ended."""
    job = submit("--time=2", "--signal=USR2@1", "--output=out", script=f"srun python3 {listens}")
    fake_slurm.advance(200)
    assert fake_slurm.wait(job).state == "TIMEOUT"
    assert (tmp_path / "out").read_text().split()[:4] == ["ready", "0", "SIGUSR2", "SIGTERM"]


def test_preempted_and_back(fake_slurm: FakeSlurm, submit: Submit, listens: str, tmp_path: Path) -> None:
    """The same id, with one restart more."""
    job = submit("--signal=USR2@60", "--open-mode=append", "--output=out", script=f"srun python3 {listens}")
    fake_slurm.start()
    fake_slurm.preempt(job)
    fake_slurm.advance(31)
    assert fake_slurm.wait(job, "PENDING").restarts == 1
    fake_slurm.advance(121)
    until(lambda: "ready 1" in (tmp_path / "out").read_text())


def test_a_job_requeues_itself(fake_slurm: FakeSlurm, submit: Submit) -> None:
    """The command is one of the processes that it ends, and says its last word first."""
    job = submit(script='[ -n "$SLURM_RESTART_COUNT" ] || { scontrol requeue $SLURM_JOB_ID; sleep 600; }')
    fake_slurm.start()
    assert fake_slurm.wait(job, "PENDING").restarts == 1
    fake_slurm.advance(121)
    assert fake_slurm.wait(job).state == "COMPLETED"


def test_out_of_memory(fake_slurm: FakeSlurm, submit: Submit) -> None:
    """With a step it is the step that says so, as on a real site."""
    alone = submit("--mem=1", script="sleep 600")
    step = submit("--mem=1", script="srun sleep 600")
    fake_slurm.start()

    def steps(job: str) -> list[Step]:
        return fake_slurm._store.read().one(job).steps

    until(lambda: len(steps(step)) == 2 and steps(alone))
    for job in (alone, step):
        fake_slurm.out_of_memory(job)
    assert fake_slurm.wait(alone).state == "OUT_OF_MEMORY"
    ended = fake_slurm.wait(step)
    assert (ended.state, ended.exit_code) == ("FAILED", 1)
    assert [one.state for one in steps(step)] == ["FAILED", "OUT_OF_MEMORY"]


def test_nothing_outlives_its_job(fake_slurm: FakeSlurm, submit: Submit, tmp_path: Path) -> None:
    """What a script leaves behind ends with it, in a session of its own or not."""
    script = "setsid sleep 600 & echo $! > left; sleep 601 & echo $! >> left"
    job = submit(script=script)
    fake_slurm.start()
    assert fake_slurm.wait(job).state == "COMPLETED"
    pids = [int(pid) for pid in (tmp_path / "left").read_text().split()]
    assert [nodeenv.process_start(pid) for pid in pids] == [0, 0]


def test_a_log_that_cannot_be_opened(fake_slurm: FakeSlurm, submit: Submit) -> None:
    """Slurm's own number for it."""
    job = submit("--output=nowhere/out")
    fake_slurm.start()
    ended = fake_slurm.wait(job)
    assert (ended.state, ended.signal) == ("FAILED", 53)


def test_closing_ends_all(tmp_path: Path, submit: Submit, fake_slurm: FakeSlurm) -> None:
    """Also one that ignores TERM."""
    job = submit("--output=out", script="trap '' TERM; echo $$; sleep 600 & wait; sleep 600")
    fake_slurm.start()
    until(lambda: (tmp_path / "out").exists() and (tmp_path / "out").read_text())
    pid = int((tmp_path / "out").read_text())
    fake_slurm.close()
    assert nodeenv.process_start(pid) == 0
    assert fake_slurm.jobs()[0].state == "CANCELLED"
    assert job == fake_slurm.jobs()[0].id
