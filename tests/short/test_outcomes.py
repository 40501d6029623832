"""Every job ends with one clear outcome, whatever its task does, and the worker lives on."""

from __future__ import annotations

import threading
import time

import pytest

from hpcpools import enqueue
from hpcpools.errors import NotFoundError, RefusedError, RunFailedError, UsageError, WaitTimeoutError
from hpcpools.short import views
from hpcpools.short.enqueue import fetch
from tests.short.lab import TASKS, Lab, alive, wait_for

BAD = {
    "exit0": "exited with code 0 before the task returned",
    "exit3": "exited with code 3 before the task returned",
    "segfault": "killed by signal 11 (SIGSEGV)",
    "kill": "killed by signal 9 (SIGKILL), perhaps out of memory",
    "sysexit": "SystemExit: 0",
    "raise": "ValueError: boom \\x1b[31m",
    "set": "its result (set) is not JSON",
    "large": "its result is 2097154 bytes of JSON, the limit is 1048576",
}


def test_bad_tasks_fail_alone_with_the_reason(lab: Lab) -> None:
    """Exits, signals, exceptions and odd results are failed by name; good jobs between them finish; the
    workers go on under the same names, whatever became of their processes."""
    supervisor = lab.start_pool()
    before = lab.wait_idle_workers(2)
    bad = {}
    for how in BAD:
        bad[how] = lab.enqueue("die", how=how)
        lab.enqueue("say", word=how)
    for how, job in bad.items():
        with pytest.raises(RunFailedError) as caught:
            job.result(20)
        assert BAD[how] in str(caught.value)
        assert job.state == "failed"
    wait_for(lambda: sum(line[0] == "say" for line in lab.lines()) == len(BAD), "all good jobs ran")
    assert lab.workers().keys() == before.keys()
    assert supervisor.poll() is None
    wait_for(lambda: lab.redis.zcard("rq:wip:default") == 0, "nothing is left as running")
    detail = views.show(lab.config, bad["raise"].id)
    assert detail.trace.startswith("Traceback (most recent call last):")
    assert "in die" in detail.trace and "rq/" not in detail.trace and "\x1b" not in detail.trace


@pytest.mark.parametrize("how", ["polite", "block", "swallow"])
def test_hung_task_is_killed_with_its_group(lab: Lab, how: str) -> None:
    """A task over its limit of 1 s is ended within 3 s more, deaf or not, with the process it started."""
    lab.start_pool()
    lab.wait_idle_workers(2)
    job = lab.enqueue("hang", how=how)
    started = time.monotonic()
    with pytest.raises(RunFailedError, match="ran over its limit of 1 s"):
        job.result(20)
    assert time.monotonic() - started < 8  # 4 s, and a machine that is busy
    child = next(int(line[1]) for line in lab.lines() if line[0] == "child")
    wait_for(lambda: not alive(child), "the child of the task is dead")
    assert lab.enqueue("say").result(20) == "hello"


def test_retry_after_a_crash(lab: Lab) -> None:
    """A declared retry starts at once after a segfault and its success is the outcome."""
    lab.start_pool()
    job = lab.enqueue("second_time")
    assert job.result(20) == "ok"
    assert lab.redis.xlen(f"rq:results:{job.id}") == 1


def test_delayed_retry_waits_in_the_scheduled_registry(lab: Lab) -> None:
    """The second retry is left to the scheduler, ten seconds later, still signed."""
    lab.start_pool()
    job = lab.client.enqueue(f"{TASKS}:die", {"log": str(lab.log), "how": "raise"}, retries=3)
    wait_for(lambda: job.refresh().state == "scheduled", "scheduled")
    assert sum(line[0] == "die" for line in lab.lines()) == 2
    due = lab.redis.zscore("rq:scheduled:default", job.id)
    assert due is not None and 5 < due - time.time() < 11
    job.cancel()
    assert job.refresh().state == "canceled"


def test_strict_priority(lab: Lab) -> None:
    """With one worker, jobs of the first queue run before older ones of a later queue, at_front first."""
    for word in ("c", "d"):
        lab.enqueue("say_later", word=word)
    lab.enqueue("say", word="b")
    lab.client.enqueue(f"{TASKS}:say", {"log": str(lab.log), "word": "a"}, at_front=True)
    assert lab.start_pool("burst", workers=1).wait(30) == 0
    assert [line[1] for line in lab.lines()] == ["a", "b", "c", "d"]


def test_idle_worker_starts_at_once(lab: Lab) -> None:
    """The bell wakes an idle worker: 20 jobs, one after the other, take far less than 20 polls would."""
    lab.start_pool()
    lab.wait_idle_workers(2)
    lab.enqueue("say").result(20)
    begin = time.monotonic()
    for _ in range(20):
        lab.enqueue("say").result(20)
    assert time.monotonic() - begin < 5  # at 0.25 s a poll it would be more


def test_stop_a_running_job(lab: Lab) -> None:
    """cancel() kills a running task, its state is stopped, and its worker takes the next job."""
    lab.start_pool()
    job = lab.enqueue("wait_for_file", path="/nonexistent/never")
    wait_for(lambda: job.refresh().state == "started" and lab.lines(), "started")
    with pytest.raises(WaitTimeoutError):
        job.wait(0.0)
    job.cancel()
    assert job.refresh().state == "stopped"
    assert not alive(int(lab.lines()[0][1]))
    assert lab.enqueue("say").result(20) == "hello"
    with pytest.raises(RunFailedError, match="stopped by user"):
        job.result()


def test_each_task_has_its_own_random_numbers(lab: Lab) -> None:
    """Tasks forked from the same memory do not repeat each other's random numbers."""
    lab.start_pool()
    jobs = [lab.enqueue("dice") for _ in range(4)]
    assert len({job.result(20) for job in jobs}) == 4


def test_nothing_is_written_for_a_wrong_call(lab: Lab) -> None:
    """Undeclared callables, wrong arguments, values that are no JSON, large payloads and wrong options are
    refused before Redis holds anything."""
    log = str(lab.log)
    for error, task, arguments, options in (
        (RefusedError, f"{TASKS}:undeclared", {"log": log}, {}),
        (RefusedError, "os:system", {"command": "true"}, {}),
        (UsageError, f"{TASKS}:say", {"word": "x"}, {}),
        (UsageError, f"{TASKS}:say", {"log": log, "extra": 1}, {}),
        (UsageError, f"{TASKS}:say", {"log": log, "word": {1, 2}}, {}),
        (UsageError, f"{TASKS}:say", {"log": log, "word": float("nan")}, {}),
        (UsageError, f"{TASKS}:say", {"log": log, "word": "x" * 70_000}, {}),
        (UsageError, f"{TASKS}:say", {"log": log}, {"queue": "nowhere"}),
        (UsageError, f"{TASKS}:say", {"log": log}, {"queue": "training"}),
        (UsageError, f"{TASKS}:say", {"log": log}, {"retries": -1}),
        (UsageError, f"{TASKS}:say", {"log": log}, {"timeout": "soon"}),
        (UsageError, f"{TASKS}:say", {"log": log}, {"job_id": "../x"}),
    ):
        with pytest.raises(error):
            lab.client.enqueue(task, arguments, **options)
    assert lab.redis.dbsize() == 0
    for job_id in ("no-such-job", "../x"):
        with pytest.raises(NotFoundError):
            fetch(lab.config, job_id)


def test_same_id_twice_is_one_job(lab: Lab) -> None:
    """An equal job under the same id is enqueued once; a different one under that id is refused."""
    for _ in range(2):
        lab.client.enqueue(f"{TASKS}:say", {"log": str(lab.log)}, job_id="mine")
    assert lab.redis.llen("rq:queue:default") == 1
    with pytest.raises(RefusedError, match="taken"):
        lab.client.enqueue(f"{TASKS}:say", {"log": str(lab.log), "word": "other"}, job_id="mine")


def test_arguments_named_like_options(lab: Lab) -> None:
    """The positional mapping reaches parameters called queue or arguments; a name given twice is refused."""
    lab.start_pool()
    name = f"{TASKS}:queue_argument"
    job = enqueue(name, {"queue": "q", "arguments": 7}, config=lab.config, log=str(lab.log))
    assert job.result(20) == "q7"
    with pytest.raises(UsageError, match="twice"):
        enqueue(name, {"log": "x"}, config=lab.config, log="y")


def test_queued_id_twice_runs_once(lab: Lab) -> None:
    """An id that is in the list twice (a repeated push) is started once."""
    job = lab.enqueue("work", number=1, seconds=0.5)
    lab.redis.rpush("rq:queue:default", job.id, job.id)
    lab.start_pool()
    assert job.result(20) == 1
    wait_for(lambda: lab.redis.llen("rq:queue:default") == 0, "the copies are dropped")
    assert [line[0] for line in lab.lines()] == ["start", "end"]


def test_views(lab: Lab) -> None:
    """Queues, workers and jobs are shown as they are; hostile descriptions are escaped."""
    lab.enqueue("say", word="\x1b[2J")
    lab.enqueue("say_later", word="later")
    first = views.queues(lab.config)
    assert [(view.name, view.waiting) for view in first][:2] == [("default", 1), ("evaluation", 1)]
    assert first[0].oldest is not None and first[0].oldest < 60
    assert first[2].oldest is None
    assert {view.state for view in views.jobs(lab.config)} == {"queued"}
    lab.start_pool()
    gate = lab.folder / "gate"
    job = lab.enqueue("wait_for_file", path=str(gate))
    wait_for(lambda: job.refresh().state == "started", "started")
    wait_for(lambda: lab.redis.zcard("rq:finished:evaluation"), "the others ended")
    wait_for(lambda: lab.redis.zcard("rq:wip:default") == 1, "only this one runs")
    busy = [worker for worker in views.workers(lab.config) if worker.job]
    assert [(worker.state, worker.job) for worker in busy] == [("busy", job.id)]
    assert busy[0].heartbeat_age is not None and busy[0].heartbeat_age < 60
    gate.touch()
    assert job.result(20) == "seen"
    seen = views.jobs(lab.config, limit=10)
    assert seen[0].id == job.id and len(seen) == 3
    assert not any("\x1b" in view.call for view in seen)
    assert views.jobs(lab.config, state="finished", queue="evaluation")[0].state == "finished"
    detail = views.show(lab.config, job.id)
    assert (detail.task, detail.result) == (f"{TASKS}:wait_for_file", "seen")
    assert detail.arguments == {"log": str(lab.log), "path": str(gate)}


def test_waiting_does_not_poll_away_the_end(lab: Lab) -> None:
    """wait() returns when the job ends, also for a caller that began before a worker existed."""
    job = lab.enqueue("say")
    states: list[str] = []
    waiter = threading.Thread(target=lambda: states.append(job.wait(20)))
    waiter.start()
    lab.start_pool()
    waiter.join(25)
    assert states == ["finished"]
