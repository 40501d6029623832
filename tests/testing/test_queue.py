"""The queue of the fake on its virtual clock; no job of these tests runs a process."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hpcpools.errors import NotFoundError, SlurmRefusedError, UsageError, WaitTimeoutError
from hpcpools.testing import Cluster, FakeSlurm, JobView, Node, Partition
from tests.testing.conftest import Call

Submit = Callable[..., str]
SMALL = Cluster(
    nodes=(Node("n1", gpus=4), Node("n2", gpus=4)),
    partitions=(
        Partition("high", ("n1", "n2"), default=True, tier=10),
        Partition("low", ("n1", "n2"), preempt_mode="REQUEUE", grace=30),
    ),
    preempt_type="preempt/partition_prio",
    min_job_age=300,
)


@pytest.fixture(autouse=True)
def _nothing_runs(fake_slurm: FakeSlurm) -> None:
    fake_slurm.hold_processes = True


def seen(slurm: FakeSlurm, job: str) -> JobView:
    """A job that is there."""
    found = slurm.job(job)
    assert found is not None
    return found


def test_time_moves_only_when_told(fake_slurm: FakeSlurm, submit: Submit) -> None:
    """Nothing starts by itself; what starts has the time of then."""
    began = fake_slurm.now
    job = submit()
    assert (seen(fake_slurm, job).state, fake_slurm.now) == ("PENDING", began)
    fake_slurm.start()
    assert (seen(fake_slurm, job).state, fake_slurm.now) == ("RUNNING", began)
    fake_slurm.advance(90)
    fake_slurm.finish(job, 3)
    ended = seen(fake_slurm, job)
    assert (ended.state, ended.reason, ended.exit_code) == ("FAILED", "NonZeroExitCode", 3)
    assert (ended.start, ended.end) == (began, began + 90)


def test_auto_starts_at_once(fake_slurm: FakeSlurm, submit: Submit) -> None:
    """As on a site with free nodes."""
    fake_slurm.auto = True
    assert seen(fake_slurm, submit()).state == "RUNNING"


def test_nodes_are_shared_or_not(fake_slurm: FakeSlurm, submit: Submit, call: Call) -> None:
    """CPUs, memory and GPUs; an exclusive job shares with nobody; a small one may pass a large one by."""
    shared = [submit("--mem=1000", "--cpus-per-task=2", "--gpus-per-node=1") for _ in range(2)]
    alone = submit("--exclusive", "--mem=0", "--gpus-per-node=2")
    waits = submit("--exclusive")
    small = submit("--mem=100")
    fake_slurm.start()
    assert [seen(fake_slurm, job).nodes for job in (*shared, alone, small)] == [
        ("g1",),
        ("g1",),
        ("g2",),
        ("g1",),
    ]
    assert seen(fake_slurm, waits).reason == "Resources"
    assert submit("--exclusive", "--partition=cpu")
    assert call("sinfo", "-h", "-N", "-o", "%N %t")[1].split() == [
        *("g1", "mix"),
        *("g2", "alloc"),
        *("c1", "idle"),
        *("c2", "idle"),
    ]
    fake_slurm.finish(alone)
    fake_slurm.start()
    assert seen(fake_slurm, waits).nodes == ("g2",)


def test_an_array_keeps_its_throttle(fake_slurm: FakeSlurm, submit: Submit, call: Call) -> None:
    """Elements that wait stand in one line, unless squeue is asked for each."""
    job = submit("--array=0-3,7%2", "--mem=1")
    fake_slurm.start()
    states = [call("squeue", "-h", "-o", "%i %T %r")[1].splitlines()]
    assert states == [
        [
            f"{job}_0 RUNNING None",
            f"{job}_1 RUNNING None",
            f"{job}_[2-3,7%2] PENDING JobArrayTaskLimit",
        ]
    ]
    fake_slurm.finish(f"{job}_0")
    fake_slurm.start()
    assert call("squeue", "-h", "-r", "-t", "R", "-o", "%i")[1].split() == [f"{job}_1", f"{job}_2"]
    fake_slurm.cancel(f"{job}_7")
    assert seen(fake_slurm, f"{job}_7").state == "CANCELLED"


def test_what_makes_a_job_wait(fake_slurm: FakeSlurm, submit: Submit) -> None:
    """Held, too early, for another, for ever."""
    held, early = submit("--hold", "--mem=1"), submit("--begin=now+1hour", "--mem=1")
    first = submit("--mem=1")
    after, never = (
        submit(f"--dependency=afterok:{first}", "--mem=1"),
        submit(f"--dependency=afternotok:{first}"),
    )
    long = submit("--time=2-00:00:00")
    fake_slurm.start()
    waits = {job: seen(fake_slurm, job).reason for job in (held, early, after, never, long)}
    assert list(waits.values()) == [
        "JobHeldUser",
        "BeginTime",
        "Dependency",
        "Dependency",
        "PartitionTimeLimit",
    ]
    fake_slurm.finish(first)
    fake_slurm.release(held)
    fake_slurm.advance(3600)
    assert [seen(fake_slurm, job).state for job in (held, early, after, never)] == [
        *["RUNNING"] * 3,
        "PENDING",
    ]
    assert seen(fake_slurm, never).reason == "DependencyNeverSatisfied"


def test_one_of_a_name(fake_slurm: FakeSlurm, submit: Submit) -> None:
    """singleton."""
    jobs = [submit("--dependency=singleton", "--job-name=me", "--mem=1") for _ in range(2)]
    fake_slurm.start()
    assert [seen(fake_slurm, job).state for job in jobs] == ["RUNNING", "PENDING"]
    fake_slurm.cancel(jobs[0])
    fake_slurm.start()
    assert seen(fake_slurm, jobs[1]).state == "RUNNING"


def test_a_requeue_keeps_the_id(fake_slurm: FakeSlurm, submit: Submit, call: Call) -> None:
    """It waits for its credential, counts the restart, and accounting keeps both attempts."""
    job = submit()
    fake_slurm.start()
    assert call("scontrol", "requeue", job)[0] == 0
    back = seen(fake_slurm, job)
    assert (back.state, back.restarts) == ("PENDING", 1)
    fake_slurm.advance(119)
    assert seen(fake_slurm, job).reason == "BeginTime"
    fake_slurm.advance(2)
    assert seen(fake_slurm, job).state == "RUNNING"
    words = ("sacct", "-n", "-P", "-X", "-D", "-j", job, "-o", "JobID,State")
    assert call(*words)[1].split() == [f"{job}|REQUEUED", f"{job}|RUNNING"]
    fixed = submit("--no-requeue")
    fake_slurm.start()
    with pytest.raises(SlurmRefusedError, match="presently disabled"):
        fake_slurm.requeue(fixed)
    fake_slurm.finish(job)
    fake_slurm.requeue(job)  # one that has ended, too
    assert seen(fake_slurm, job).restarts == 2
    assert call(*words)[1].split()[:2] == [f"{job}|REQUEUED", f"{job}|COMPLETED"]
    assert call("scontrol", "requeue", "99") == (1, "", "Invalid job id specified for job 99\n")


def test_the_time_limit(fake_slurm: FakeSlurm, submit: Submit) -> None:
    """To the second, and with Slurm's words for it."""
    job = submit("--time=10")
    fake_slurm.start()
    fake_slurm.advance(599)
    assert seen(fake_slurm, job).state == "RUNNING"
    fake_slurm.advance(2)
    over = seen(fake_slurm, job)
    assert (over.state, over.reason, over.end - over.start) == ("TIMEOUT", "TimeLimit", 600)
    unsaid = submit()  # then it is the partition's
    fake_slurm.advance(86401)
    assert seen(fake_slurm, unsaid).state == "TIMEOUT"


@pytest.mark.fake_slurm(cluster=SMALL)
def test_a_higher_tier_preempts(fake_slurm: FakeSlurm, submit: Submit) -> None:
    """After the grace of the lower partition, and back as soon as there is room."""
    low = [submit("--partition=low", "--exclusive") for _ in range(2)]
    fake_slurm.start()
    high = submit("--exclusive")
    fake_slurm.start()
    assert seen(fake_slurm, high).state == "PENDING"
    fake_slurm.advance(31)
    assert seen(fake_slurm, high).state == "RUNNING"
    states = sorted(seen(fake_slurm, job).state for job in low)
    assert states == ["PENDING", "RUNNING"]
    fake_slurm.finish(high)
    fake_slurm.advance(130)
    assert [seen(fake_slurm, job).state for job in low] == ["RUNNING", "RUNNING"]


def test_a_node_fails(fake_slurm: FakeSlurm, submit: Submit, call: Call) -> None:
    """What may be requeued is; the node takes nothing until it is back."""
    again, fixed = submit("--nodelist=g1", "--mem=1"), submit("--nodelist=g1", "--mem=1", "--no-requeue")
    fake_slurm.start()
    fake_slurm.node_fail("g1")
    assert (seen(fake_slurm, again).state, seen(fake_slurm, fixed).state) == ("PENDING", "NODE_FAIL")
    fake_slurm.advance(200)
    assert seen(fake_slurm, again).reason == "ReqNodeNotAvail, UnavailableNodes:g1"
    assert call("sinfo", "-h", "-n", "g1", "-o", "%t %E")[1] == "down* Not responding\n"
    fake_slurm.node_up("g1")
    fake_slurm.start()
    assert seen(fake_slurm, again).state == "RUNNING"
    fake_slurm.drain("g2", "broken fan")
    assert call("sinfo", "-h", "-n", "g2", "-o", "%T %E")[1] == "drained broken fan\n"
    with pytest.raises(NotFoundError):
        fake_slurm.node_fail("g9")


def test_slurm_forgets(fake_slurm: FakeSlurm, submit: Submit, call: Call) -> None:
    """squeue after MinJobAge, accounting when a test says so."""
    job = submit()
    fake_slurm.start()
    fake_slurm.finish(job)
    fake_slurm.advance(299)
    assert call("squeue", "-h", "--states=all", "-o", "%i")[1].split() == [job]
    fake_slurm.advance(2)
    assert call("squeue", "-h", "--states=all", "-o", "%i")[1] == ""
    assert call("sacct", "-n", "-X", "-P", "-o", "JobID")[1].split() == [job]
    fake_slurm.purge(job)
    assert call("sacct", "-n", "-X", "-P", "-o", "JobID")[1] == ""
    with pytest.raises(NotFoundError):
        fake_slurm.wait(job)


def test_an_answer_that_lags(fake_slurm: FakeSlurm, submit: Submit, call: Call) -> None:
    """squeue says what was, until its time is over."""
    job = submit()
    fake_slurm.lag(60)
    fake_slurm.advance(30)
    assert seen(fake_slurm, job).state == "RUNNING"
    assert call("squeue", "-h", "-o", "%T")[1] == "PENDING\n"
    fake_slurm.advance(31)
    assert call("squeue", "-h", "-o", "%T")[1] == "RUNNING\n"


def test_who_ends_what(fake_slurm: FakeSlurm, submit: Submit) -> None:
    """finish() is for jobs that run nothing; wait() waits in real time, and says why it gave up."""
    job = submit()
    with pytest.raises(UsageError, match="not one that the test ends"):
        fake_slurm.finish(job)
    with pytest.raises(WaitTimeoutError, match="PENDING"):
        fake_slurm.wait(job, timeout=0)
