"""Stock rq's words to workers (suspend, stop, shutdown, cancel, delete), and what it reads of them."""

from __future__ import annotations

import os
import time

import pytest
from rq.command import (
    send_command,
    send_kill_horse_command,
    send_shutdown_command,
    send_stop_execution_command,
    send_stop_job_command,
)
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import JobStatus
from rq.suspension import is_suspended, resume, suspend
from rq.worker import WorkerStatus

from hpcpools.short import control, views
from tests.short.lab import Lab, alive, wait_for
from tests.short.rq_tools import JSON, cli, give, hold, queue, release, rq, stock, workers


def test_suspend_and_resume(lab: Lab) -> None:
    """`rq suspend` and `hpcpools suspend` let running jobs end and start none; burst ends with jobs left;
    either resume works, and a suspension with a duration ends by itself."""
    lab.start_pool(workers=1)
    running = hold(lab)
    rq(lab, "suspend")
    waiting = give(lab, "say")
    release(lab)
    assert running.result(20) == "seen"
    assert control.suspended_for(lab.config) == float("inf")
    assert waiting.refresh().state == "queued"
    assert [worker.state for worker in views.workers(lab.config)] == ["suspended"]
    wait_for(lambda: {w.get_state() for w in workers(lab).values()} == {"suspended"}, "rq sees that")
    cli(lab, "resume")
    assert waiting.result(20) == "hello" and not is_suspended(lab.redis)
    cli(lab, "suspend", "--for", "1h")
    assert is_suspended(lab.redis) and 3590 < (control.suspended_for(lab.config) or 0) <= 3600
    assert "resumed" in cli(lab, "resume") and "not suspended" in cli(lab, "resume")
    suspend(lab.redis, ttl=1)
    begin = time.monotonic()
    assert give(lab, "say").result(20) == "hello" and time.monotonic() - begin > 0.5


def test_burst_while_suspended(lab: Lab) -> None:
    """A burst of a suspended pool ends at once and leaves the queue as it is."""
    suspend(lab.redis)
    job = give(lab, "say")
    assert lab.start_pool("burst", workers=1).wait(30) == 0
    assert queue(lab).get_job_ids() == [job.id] and lab.lines() == []
    resume(lab.redis)
    assert lab.start_pool("burst", workers=1).wait(30) == 0
    assert job.refresh().state == "finished"


@pytest.mark.parametrize("word", ["stop-job", "stop-execution"])
def test_stop(lab: Lab, word: str) -> None:
    """A running job is stopped, not retried, and with the failed ones; orders for other jobs are ignored; a
    job that does not run cannot be stopped."""
    with pytest.raises(NoSuchJobError):
        send_stop_job_command(lab.redis, "nobody", serializer=JSON)
    job = give(lab, "wait_for_file", {"path": "/nonexistent/never"}, retries=3)
    with pytest.raises(InvalidJobOperation):
        send_stop_job_command(lab.redis, job.id, serializer=JSON)
    lab.start_pool(workers=1)
    wait_for(lambda: job.refresh().state == "started" and lab.lines(), "it runs")
    [name] = lab.wait_idle_workers(1)
    send_command(lab.redis, name, "stop-job", job_id="another")
    send_command(lab.redis, name, "no-such-command")
    lab.redis.publish(f"rq:pubsub:{name}", "no json")
    time.sleep(0.4)  # nothing may happen, so there is nothing to wait for
    assert job.refresh().state == "started"
    if word == "stop-job":
        send_stop_job_command(lab.redis, job.id, serializer=JSON)
    else:
        [execution] = stock(lab, job).get_executions()
        send_stop_execution_command(lab.redis, job.id, execution.id)
    assert job.wait(10) == "stopped" and not alive(int(lab.lines()[0][1]))
    assert stock(lab, job).is_stopped and job.id in queue(lab).failed_job_registry
    assert give(lab, "say").result(20) == "hello" and list(lab.workers()) == [name]


def test_kill_horse(lab: Lab) -> None:
    """It kills the running task, whose job fails with the reason; idle workers ignore it, busy ones live."""
    lab.start_pool(workers=1)
    [name] = lab.wait_idle_workers(1)
    send_kill_horse_command(lab.redis, name)
    job = hold(lab)
    send_kill_horse_command(lab.redis, name)
    assert job.wait(10) == "failed" and "killed by signal 9" in job.reason()
    assert job.id in queue(lab).failed_job_registry and not alive(int(lab.lines()[0][1]))
    assert give(lab, "say").result(20) == "hello" and list(lab.workers()) == [name]


def test_commands_after_a_lost_connection(lab: Lab) -> None:
    """A worker whose connections are cut still hears what it is told."""
    lab.start_pool(workers=1)
    job = hold(lab)
    for kind in ("pubsub", "normal"):
        lab.redis.client_kill_filter(_type=kind, skipme=True)

    def stopped() -> bool:
        send_stop_job_command(lab.redis, job.id, serializer=JSON)
        return job.refresh().state == "stopped"

    wait_for(stopped, "stopped")
    assert give(lab, "say").result(20) == "hello"


def test_shutdown(lab: Lab) -> None:
    """A worker told to shut down ends its job first, then its process; the pool starts another one."""
    lab.start_pool(workers=1)
    job = hold(lab)
    [(name, pid)] = lab.wait_idle_workers(1).items()
    send_shutdown_command(lab.redis, name)
    time.sleep(0.5)
    assert job.refresh().state == "started"
    release(lab)
    assert job.result(20) == "seen"
    wait_for(lambda: len(lab.workers()) == 1 and pid not in lab.workers().values(), "a new worker")
    assert not alive(pid) and give(lab, "say").result(20) == "hello"


def test_cancelled_and_deleted_jobs_do_not_run(lab: Lab) -> None:
    """Cancelled by stock rq or by us, deleted, or only marked as cancelled while the id is still queued: none
    runs, the job behind them does; a second cancel of stock rq is an error, as always."""
    ours, theirs, gone, marked = (give(lab, "say", {"word": "no"}) for _ in range(4))
    later = give(lab, "say", {"word": "no"}, delay="1h")
    for job in (ours, later):
        job.cancel()
    stock(lab, theirs).cancel()
    stock(lab, gone).delete()
    stock(lab, marked).set_status(JobStatus.CANCELED)
    with pytest.raises(InvalidJobOperation):
        stock(lab, ours).cancel()
    last = give(lab, "say", {"word": "last"})
    assert queue(lab).get_job_ids() == [marked.id, last.id]
    assert {ours.id, theirs.id, later.id} <= set(queue(lab).canceled_job_registry.get_job_ids())
    assert lab.start_pool("burst", workers=1).wait(30) == 0
    assert lab.lines() == [["say", "last"]]
    assert not lab.redis.exists(f"rq:job:{gone.id}")


def test_a_job_deleted_while_it_runs(lab: Lab) -> None:
    """Nothing of it is left after its end, and its worker goes on."""
    lab.start_pool(workers=1)
    job = hold(lab)
    stock(lab, job).delete()
    release(lab)
    assert give(lab, "say").result(20) == "hello"
    wait_for(lambda: not lab.redis.exists("rq:wip:default"), "no execution is left")
    assert job.id not in queue(lab).finished_job_registry and job.id not in queue(lab).failed_job_registry


def test_workers_as_rq_sees_them(lab: Lab) -> None:
    """Name, host, pid, queues, state, current job, heartbeats and counts, while they live; nothing after."""
    pool = lab.start_pool()
    lab.wait_idle_workers(2)
    wait_for(lambda: all(w.get_state() == WorkerStatus.IDLE for w in workers(lab).values()), "idle")
    before = {name: worker.last_heartbeat for name, worker in workers(lab).items()}
    job = hold(lab)
    busy = [worker for worker in workers(lab).values() if worker.get_state() == WorkerStatus.BUSY]
    assert [each.job_id for worker in busy for each in worker.get_current_executions()] == [job.id]
    assert stock(lab, job).worker_name == busy[0].name
    for name, worker in workers(lab).items():
        assert worker.queue_names() == list(lab.config.short.queues)
        assert worker.hostname == os.uname().nodename and alive(worker.pid or 0)
        assert worker.birth_date and worker.version and worker.python_version
        assert worker.last_heartbeat and worker.last_heartbeat >= (before[name] or worker.last_heartbeat)
        assert 0 < lab.redis.ttl(worker.key) <= 600
        assert lab.redis.sismember("rq:workers:evaluation", worker.key)
    release(lab)
    assert job.result(20) == "seen" and give(lab, "die", {"how": "raise"}).wait(20) == "failed"

    def counts() -> tuple[int, int]:
        found = workers(lab).values()
        return sum(w.successful_job_count for w in found), sum(w.failed_job_count for w in found)

    wait_for(lambda: counts() == (1, 1), "both jobs are counted")
    pool.terminate()
    assert pool.wait(15) == 0
    assert workers(lab) == {} and lab.redis.keys("rq:workers*") == []
