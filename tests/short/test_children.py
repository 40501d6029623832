"""The processes that run tasks: used again, replaced when a task leaves something, gone with the pool."""

from __future__ import annotations

import os
import signal
import time

import pytest

from hpcpools.errors import RunFailedError
from hpcpools.short import board, process, recovery
from hpcpools.short.enqueue import ShortJob
from hpcpools.short.job import bell_key
from hpcpools.short.scripts import Scripts
from hpcpools.short.tally import Tally
from hpcpools.short.watch import Watch
from hpcpools.short.worker import HpcWorker
from tests.short.lab import Lab, alive, children, descendants, wait_for
from tests.short.rq_tools import configure

REPLACED = ("process", "daemon", "thread", "handler", "mask", "memory")
RESTORED = ("folder", "umask", "environment")


def test_a_process_serves_many_jobs_and_is_replaced_in_time(lab: Lab) -> None:
    """One worker, max_jobs = 5: each process runs five jobs, and the worker keeps its name and its counts."""
    configure(lab, "max_jobs = 5")
    jobs = [lab.enqueue("who") for _ in range(12)]
    lab.start_pool(workers=1)
    pids = [job.result(20) for job in jobs]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [5, 5, 2]
    (name,) = lab.workers()
    assert lab.redis.hget(f"rq:worker:{name}", "successful_job_count") == b"12"


def test_what_a_task_leaves_meets_no_other_task(lab: Lab) -> None:
    """Processes it leaves are dead before its job counts as finished; the rest is mended, or replaced."""
    configure(lab, "max_rss_mb = 32")
    lab.start_pool(workers=1)
    for how in REPLACED:
        used = lab.enqueue("litter", how=how).result(20)
        left = [int(line[1]) for line in lab.lines() if line[0] == "left"]
        assert not any(map(alive, left)), how
        assert lab.enqueue("who").result(20) != used, how
    assert lab.events().count("worker-replace") == len(REPLACED)
    before = lab.enqueue("surroundings").result(20)
    for how in RESTORED:
        lab.enqueue("litter", how=how)
        assert lab.enqueue("surroundings").result(20) == before, how


def test_a_copy_that_a_task_made_of_its_process_serves_nobody(lab: Lab) -> None:
    """A fork that comes back from the task ends there: one result, and later jobs run once each."""
    lab.start_pool(workers=1)
    for number in range(5):
        job = lab.enqueue("forked")
        job.result(20)
        assert lab.redis.xlen(f"rq:results:{job.id}") == 1
        assert lab.enqueue("say", word=str(number)).result(20) == str(number)
    assert [line[1] for line in lab.lines() if line[0] == "say"] == ["0", "1", "2", "3", "4"]


def test_no_orphan_takes_a_job(lab: Lab) -> None:
    """kill -9 of the supervisor alone, while its children are busy with a backlog: they start nothing."""
    for number in range(400):
        lab.enqueue("work", number=number, seconds=0.01)
    supervisor = lab.start_pool(workers=4)
    wait_for(lambda: len(lab.lines()) > 40, "they are busy")
    below = list(descendants(supervisor.pid))
    supervisor.kill()
    killed = time.time()
    supervisor.wait()
    wait_for(lambda: not any(map(alive, below)), "all are gone", 5)
    waiting = lab.redis.llen("rq:queue:default")
    assert waiting > 100
    assert time.time() - killed < 2, "too slow to say"
    assert lab.redis.blpop([bell_key("nobody")], 1) is None  # time in which an orphan would claim
    assert lab.redis.llen("rq:queue:default") == waiting


def test_memory_of_a_task_is_limited(lab: Lab) -> None:
    """A task that holds too much, together with its processes, is killed with them and told so."""
    configure(lab, "memory_mb = 200")
    lab.start_pool(workers=1)
    small = lab.enqueue("eat", mib=20)
    wait_for(lab.lines, "it runs")
    job = lab.enqueue("eat", mib=320)
    small.cancel()
    with pytest.raises(RunFailedError, match=r"used 0\.\d+ GiB of memory, the limit is 0\.2 GiB"):
        job.result(20)
    assert small.refresh().state == "stopped"
    assert not any(alive(int(pid)) for line in lab.lines() for pid in line[1:])
    assert lab.enqueue("say").result(20) == "hello"


def test_tasks_are_nice(lab: Lab) -> None:
    """nice is that of the tasks, not of the supervisor."""
    configure(lab, "nice = 3")
    supervisor = lab.start_pool()
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert lab.enqueue("niceness").result(20) == min(19, own + 3)
    assert os.getpriority(os.PRIO_PROCESS, supervisor.pid) == own


def test_jobs_pushed_without_a_bell_are_found(lab: Lab) -> None:
    """rq's own tools push ids without ringing; the supervisor wakes somebody."""
    lab.start_pool()
    lab.wait_idle_workers(2)
    lab.enqueue("say").result(20)
    entry = lab.client.catalog.short("tests.short.tasks_for_tests:say")
    job_class = lab.client._job_class
    job_class.of(entry, {"log": str(lab.log)}, connection=lab.redis, job_id="late").save()
    lab.redis.rpush("rq:queue:default", "late")
    began = time.monotonic()
    assert ShortJob(lab.config, lab.redis, "late").result(20) == "hello"
    assert time.monotonic() - began < 4  # an idle child looks by itself after 5 s


def test_a_stopped_child_does_not_stop_the_pool(lab: Lab) -> None:
    """A child that hangs in its task for good (stopped by a signal) is killed at its limit as well."""
    supervisor = lab.start_pool(workers=1)
    job = lab.client.enqueue(
        "tests.short.tasks_for_tests:wait_for_file",
        {"log": str(lab.log), "path": "/nonexistent/x"},
        timeout=1,
    )
    wait_for(lab.lines, "it runs")
    os.kill(int(lab.lines()[0][1]), signal.SIGSTOP)
    with pytest.raises(RunFailedError, match="ran over its limit of 1 s"):
        job.result(20)
    assert lab.enqueue("say").result(20) == "hello"
    assert len(children(supervisor.pid)) == 1


def test_the_pool_grows_with_its_backlog_and_shrinks_without_a_kill(lab: Lab) -> None:
    """One to two workers; each task that ran when the pool shrank ended in peace."""
    configure(lab, 'max_workers = 2\ngrow_backlog = 1\nshrink_after = "1s"')
    jobs = [lab.enqueue("work", number=number, seconds=0.5) for number in range(12)]
    supervisor = lab.start_pool(workers=1)
    wait_for(lambda: len(children(supervisor.pid)) == 2, "it has grown")
    assert [job.result(30) for job in jobs] == list(range(12))
    wait_for(lambda: len(children(supervisor.pid)) == 1, "it has shrunk")
    wait_for(lambda: len(lab.workers()) == 1, "and so has rq's list")
    assert sum(line[0] == "start" for line in lab.lines()) == 12
    assert lab.enqueue("say").result(20) == "hello"


def test_ids_ready_for_a_foreign_queue_are_dropped(lab: Lab) -> None:
    """rq would enqueue whatever stands in its registry of ready jobs, and have us sign it for that queue."""
    job = lab.enqueue("say")
    lab.redis.lrem("rq:queue:default", 0, job.id)
    lab.redis.hset(f"rq:job:{job.id}", "status", "ready_to_enqueue")
    lab.redis.zadd("rq:ready:maintenance", {job.id: 1})
    recovery.Recovery(lab.redis, lab.client._job_class, Tally(1, [], [])).sweep(())
    assert lab.redis.zcard("rq:ready:maintenance") == lab.redis.llen("rq:queue:maintenance") == 0
    assert lab.redis.hget(f"rq:job:{job.id}", "origin") == b"default"


def test_what_the_lane_holds_is_left_alone(lab: Lab) -> None:
    """Jobs of workers called lane-… come back through the lane only; those of other dead workers at once."""
    jobs = {
        name: lab.enqueue("say") for name in ("lane-1", f"{recovery.name_prefix(lab.config)}x", "stranger")
    }
    for name in jobs:
        assert Scripts(lab.redis).claim(name, "e", ["default"]) is not None
        lab.redis.delete(f"rq:worker:{name}")
    sweeper = recovery.Recovery(lab.redis, lab.client._job_class, Tally(1, [], []))
    sweeper.sweep((), first=True)
    sweeper.sweep(())
    states = {name: job.refresh().state for name, job in jobs.items()}
    assert states.pop("lane-1") == "started"
    assert set(states.values()) == {"queued"}


def test_heartbeats_keep_a_long_job_alive_and_revive_nothing(lab: Lab) -> None:
    """A beat extends worker, execution and their indexes; one that comes late leaves no trace of the job."""
    job = lab.enqueue("say")
    claim = Scripts(lab.redis).claim("w", "e", ["default"])
    assert claim is not None
    keys = (f"rq:execution:{job.id}:e", f"rq:executions:{job.id}", "rq:worker:w:executions", "rq:worker:w")
    for key in keys:
        lab.redis.expire(key, 5)
    worker = HpcWorker("w", connection=lab.redis, job_class=lab.client._job_class)
    watch = Watch(lab.redis, lab.client._job_class, "w")
    work = board.Work("default", job.id, "e")
    before = lab.redis.hget(f"rq:job:{job.id}", "last_heartbeat")
    watch.beat([(worker, work)])
    assert all(lab.redis.ttl(key) >= 80 for key in keys)
    assert lab.redis.hget(f"rq:job:{job.id}", "last_heartbeat") != before
    lab.redis.flushall()
    watch.beat([(worker, work)])
    assert not list(lab.redis.scan_iter(f"*{job.id}*"))


def test_only_what_ran_is_blamed(lab: Lab) -> None:
    """The board of a dead child tells what it was doing; ids that do not fit are no one's."""
    shared = board.Board(2)
    work = board.Work("default", "j", "e")
    shared.run(1, work, 5)
    running = shared.running(1)
    assert running is not None and (running.work, running.limit) == (work, 5)
    assert shared.running(0) is None
    shared.save(1)
    assert (shared.running(1), shared.state(1)) == (None, board.SAVING)
    shared.run(1, board.Work("default", "j" * 300, "e"), 5)
    assert shared.running(1) is None


def test_memory_counts_the_whole_tree() -> None:
    """A process and all below it; pages of files are nobody's own."""
    assert process.resident(os.getpid()) > 1 << 20
    assert process.resident(2**22 + 1) == 0
