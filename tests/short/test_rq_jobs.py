"""What stock rq promises of one job, judged from outside: a real pool runs it, rq's own classes look."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timezone

import pytest
from rq.exceptions import NoSuchJobError
from rq.job import JobStatus
from rq.results import Result

from hpcpools.errors import RefusedError, RunFailedError
from tests.short.lab import Lab, wait_for
from tests.short.rq_tools import cli, give, hold, queue, release, rq, stock


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One pool of two workers for all tests here."""
    lab = Lab(tmp_path_factory.mktemp("rq"))
    lab.start_pool()
    lab.wait_idle_workers(2)
    try:
        yield lab
    finally:
        lab.stop()
        print(lab.events()[-6000:])


@pytest.fixture
def lab(pool: Lab) -> Lab:
    """The pool, with an empty log and a closed gate."""
    pool.log.unlink(missing_ok=True)
    (pool.folder / "gate").unlink(missing_ok=True)
    return pool


def test_status_times_and_result(lab: Lab) -> None:
    """queued, started, finished, each with its time; the result is in the stream, and names its worker and
    execution; nothing of it is in the job's hash."""
    before = datetime.now(timezone.utc)
    job = hold(lab)
    running = stock(lab, job)
    assert running.is_started and running.worker_name in lab.workers()
    assert running.enqueued_at and running.started_at and running.ended_at is None
    [execution] = running.get_executions()
    registered = queue(lab).started_job_registry.get_job_and_execution_ids(cleanup=False)
    assert registered == [(job.id, execution.id)]
    assert execution.worker_name == running.worker_name
    assert job.id in queue(lab).started_job_registry
    release(lab)
    assert job.result(20) == "seen"
    done = stock(lab, job)
    assert done.get_status() is JobStatus.FINISHED and done.is_finished and not done.is_failed
    assert done.enqueued_at and done.started_at and done.ended_at
    assert before <= done.enqueued_at <= done.started_at <= done.ended_at <= datetime.now(timezone.utc)
    assert done.return_value() == "seen" and done.origin == "default"
    latest = done.latest_result()
    assert latest and latest.type is Result.Type.SUCCESSFUL and latest.worker_name == running.worker_name
    assert latest.execution_id == execution.id
    assert job.id in queue(lab).finished_job_registry and job.id not in queue(lab).started_job_registry
    assert done.get_executions() == []
    assert not {b"result", b"exc_info"} & set(lab.redis.hgetall(done.key))


def test_failure_keeps_what_happened(lab: Lab) -> None:
    """A failed job is in the failed registry, with its traceback, its queue and the time it was enqueued."""
    job = give(lab, "die", {"how": "raise"})
    enqueued = stock(lab, job).enqueued_at
    with pytest.raises(RunFailedError):
        job.result(20)
    failed = stock(lab, job)
    assert failed.is_failed and failed.enqueued_at == enqueued and failed.origin == "default"
    assert job.id in queue(lab).failed_job_registry and job.id not in queue(lab).started_job_registry
    latest = failed.latest_result()
    assert latest and latest.type is Result.Type.FAILED
    assert "ValueError: boom" in (latest.exc_string or "")
    assert failed.return_value() is None and failed.get_executions() == []


def test_text_of_any_script(lab: Lab) -> None:
    """Arguments and results need not be ASCII."""
    assert give(lab, "say", {"word": "grüß 你好 💪"}).result(20) == "grüß 你好 💪"


def test_coroutines_are_awaited(lab: Lab) -> None:
    """An ``async def`` task is run to its end."""
    assert give(lab, "later").result(20) == "awaited"


def test_meta(lab: Lab) -> None:
    """What is given stays; what the task leaves through get_current_job() survives success, failure and a
    second try, which sees it."""
    given = {"experiment": "a", "step": 3}
    ok = give(lab, "leave_meta", {"how": "return"}, meta=given, timeout=77)
    assert ok.result(20) == {"id": ok.id, "timeout": 77, "seen": ["default"]}
    assert stock(lab, ok).meta == {**given, "seen": ["default"]}
    bad = give(lab, "leave_meta", {"how": "fail"}, meta=given)
    assert bad.wait(20) == "failed"
    assert stock(lab, bad).meta == {**given, "seen": ["default"]}
    again = give(lab, "leave_meta", {"how": "once"}, meta=given, retries=1)
    assert again.result(20)["seen"] == ["default", "default"]
    assert stock(lab, again).meta == {**given, "seen": ["default", "default"]}


def test_result_and_failure_are_kept_as_long_as_asked(lab: Lab) -> None:
    """result_ttl and failure_ttl bound the hash, the result and the place in the registry."""
    good, bad = give(lab, "say", result_ttl="2h"), give(lab, "die", {"how": "raise"}, failure_ttl="3h")
    assert (good.wait(20), bad.wait(20)) == ("finished", "failed")
    now = time.time()
    for job, registry, seconds in ((good, "finished", 7200), (bad, "failed", 10800)):
        left = [lab.redis.ttl(f"rq:job:{job.id}"), lab.redis.ttl(f"rq:results:{job.id}")]
        left.append(int((lab.redis.zscore(f"rq:{registry}:default", job.id) or 0) - now))
        assert all(seconds - 60 < each <= seconds + 1 for each in left), left


def test_a_short_result_is_gone_in_time(lab: Lab) -> None:
    """After result_ttl the job is unknown to rq and to us."""
    job = give(lab, "say", result_ttl=1)
    assert job.wait(20) == "finished"
    wait_for(lambda: not lab.redis.exists(f"rq:job:{job.id}", f"rq:results:{job.id}"), "gone")
    with pytest.raises(NoSuchJobError):
        stock(lab, job)
    wait_for(lambda: lab.redis.zscore("rq:finished:default", job.id) is None, "the registry is cleaned")


def test_retries_at_once_then_later(lab: Lab) -> None:
    """Declared intervals 0, 40, 80 s: two tries at once, the third is scheduled; only an end leaves a result,
    and the job is not among the failed ones before."""
    job = give(lab, "flaky")
    wait_for(lambda: job.refresh().state == "scheduled", "scheduled")
    assert [line for line in lab.lines() if line[0] == "flaky"] == [["flaky"]] * 2
    waiting = stock(lab, job)
    assert (waiting.retries_left, waiting.retry_intervals) == (1, [0, 40, 80])
    due = queue(lab).scheduled_job_registry.get_scheduled_time(waiting)
    assert 30 < due.timestamp() - time.time() <= 41
    assert waiting.latest_result() is None and job.id not in queue(lab).failed_job_registry
    assert job.id not in queue(lab).get_job_ids()


def test_retries_of_the_call(lab: Lab) -> None:
    """Retries and intervals of a call overrule the declared ones; when none are left the job is failed."""
    job = give(lab, "flaky", retry_intervals=[0, 0])
    assert job.wait(20) == "failed"
    assert len(lab.lines()) == 3 and stock(lab, job).retries_left == 0
    once = give(lab, "flaky", retries=0)
    assert once.wait(20) == "failed" and len(lab.lines()) == 4
    other = give(lab, "flaky", retry_intervals=["1m"])
    wait_for(lambda: other.refresh().state == "scheduled", "scheduled")
    due = queue(lab).scheduled_job_registry.get_scheduled_time(stock(lab, other))
    assert 50 < due.timestamp() - time.time() <= 61


def test_unique(lab: Lab) -> None:
    """With unique a known id is refused whatever its state, queued, later or finished; without, an equal job
    is the same job."""
    first = give(lab, "say", job_id="only", unique=True)
    with pytest.raises(RefusedError, match="taken"):
        give(lab, "say", job_id="only", unique=True)
    assert first.result(20) == "hello"
    with pytest.raises(RefusedError, match="taken"):
        give(lab, "say", job_id="only", unique=True)
    again = give(lab, "say", job_id="only")
    assert again.id == "only" and again.result(20) == "hello" and len(lab.lines()) == 1
    give(lab, "say", job_id="night", unique=True, delay="1h")
    with pytest.raises(RefusedError, match="taken"):
        give(lab, "say", job_id="night", unique=True, delay="2h")
    due = queue(lab).scheduled_job_registry.get_scheduled_time(stock(lab, "night"))
    assert 3500 < due.timestamp() - time.time() < 3602


def test_who_lost_its_job_settles_nothing(lab: Lab) -> None:
    """A worker whose job was given to another meanwhile writes no outcome: the one result is the other's."""
    job = hold(lab)
    [execution] = stock(lab, job).get_executions()
    lab.redis.zrem("rq:wip:default", execution.composite_key)
    lab.redis.delete(execution.key, f"rq:executions:{job.id}")
    lab.redis.hset(f"rq:job:{job.id}", "status", "queued")
    lab.redis.lpush("rq:queue:default", job.id)
    wait_for(lambda: len(lab.lines()) == 2, "another worker runs it")
    [second] = stock(lab, job).get_executions()
    release(lab)
    assert job.result(20) == "seen"
    assert give(lab, "say").result(20) == give(lab, "say").result(20) == "hello"
    results = stock(lab, job).results()
    assert [each.execution_id for each in results] == [second.id]


@pytest.mark.parametrize("how", ["stock", "rq", "ours"])
def test_requeue(lab: Lab, how: str) -> None:
    """A failed job runs again through Job.requeue(), `rq requeue` and `hpcpools requeue`; ours gives it all
    its retries back, and is refused for a job that is not failed."""
    job = give(lab, "flaky", retry_intervals=[0])
    assert job.wait(20) == "failed" and len(lab.lines()) == 2
    if how == "stock":
        stock(lab, job).requeue()
    elif how == "rq":
        rq(lab, "requeue", "--queue", "default", "--serializer", "json", job.id)
    else:
        assert f"would put back {job.id} (failed)" in cli(lab, "requeue", job.id, "--dry-run")
        assert job.refresh().state == "failed"
        assert f"{job.id}  queued, was failed" in cli(lab, "requeue", job.id)
    tries = 4 if how == "ours" else 3
    wait_for(lambda: len(lab.lines()) == tries, "it ran again")
    assert job.wait(20) == "failed" and lab.redis.xlen(f"rq:results:{job.id}") == 2
    if how == "ours":
        done = give(lab, "say")
        assert done.result(20) == "hello"
        with pytest.raises(RefusedError, match="is finished"):
            cli(lab, "requeue", done.id)
