"""kill -9 of anything, at any time: no accepted job is lost, none runs twice at once, nothing is left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from hpcpools.errors import RunFailedError
from hpcpools.short.enqueue import ShortJob
from hpcpools.short.recovery import name_prefix
from hpcpools.short.scripts import Scripts
from tests.short.lab import Lab, alive, children, descendants, wait_for

JOBS = 200
SECONDS = 0.03


def _stream(lab: Lab) -> list[ShortJob]:
    return [lab.enqueue("work", number=number, seconds=SECONDS) for number in range(JOBS)]


def _check(lab: Lab, jobs: list[ShortJob], kills: int) -> None:
    """The tasks' own log as the judge: all ended, no overlap, no more repeats than kills."""
    states = Counter(job.wait(60) for job in jobs)
    assert states == {"finished": JOBS}
    lines = lab.lines()
    assert not [line for line in lines if line[0] == "overlap"]
    ended = Counter(line[1] for line in lines if line[0] == "end")
    started = Counter(line[1] for line in lines if line[0] == "start")
    assert len(ended) == JOBS
    assert sum(started.values()) - JOBS <= kills, started.most_common(5)
    for key in ("rq:wip:default", "rq:queue:default", "rq:queue:default:intermediate"):
        wait_for(lambda key=key: not lab.redis.exists(key), f"{key} is empty")  # type: ignore[misc]


def _started(lab: Lab, number: int) -> None:
    wait_for(lambda: sum(line[0] == "start" for line in lab.lines()) >= number, f"{number} starts")


def test_workers_killed_under_load(lab: Lab) -> None:
    """Every 20 jobs the process of a worker is killed with -9: its job runs again, without any retries."""
    jobs = _stream(lab)
    supervisor = lab.start_pool()
    kills = 0
    for number in range(10, JOBS, 20):
        _started(lab, number)
        if workers := children(supervisor.pid):
            try:
                os.kill(random.choice(workers), signal.SIGKILL)
                kills += 1
            except ProcessLookupError:
                pass
    assert kills > 4
    _check(lab, jobs, kills)
    assert supervisor.poll() is None
    wait_for(lambda: not any(_is_zombie(child) for child in children(supervisor.pid)), "no zombie")


def test_whole_pool_killed_under_load(lab: Lab) -> None:
    """The supervisor is killed with -9 three times; at once no worker and no task lives, and the next pool
    goes on with all that was left."""
    jobs = _stream(lab)
    kills = 0
    for number in (20, 60, 100):
        supervisor = lab.start_pool()
        _started(lab, number)
        below = list(descendants(supervisor.pid))
        supervisor.kill()
        supervisor.wait()
        kills += 2  # two workers, each with a job
        wait_for(lambda below=below: not any(map(alive, below)), "nothing of it lives", 5)  # type: ignore[misc]
    lab.start_pool()
    _check(lab, jobs, kills)


def test_redis_killed_under_load(lab: Lab) -> None:
    """Redis is killed with -9 and restarted twice; workers live through it and each job ends once."""
    jobs = _stream(lab)
    supervisor = lab.start_pool()
    before = set(lab.wait_idle_workers(2).values())
    for number in (30, 90):
        _started(lab, number)
        lab.server.kill()
        lab.server.wait()
        time.sleep(0.5)  # the outage itself
        lab.start_redis()
    _check(lab, jobs, kills=0)
    assert set(children(supervisor.pid)) >= before


def test_result_survives_an_outage(lab: Lab) -> None:
    """A task that ends while Redis is away keeps its result and writes it when Redis is back, also when
    that takes longer than the task's limit."""
    gate = lab.folder / "gate"
    job = lab.client.enqueue(
        "tests.short.tasks_for_tests:wait_for_file", {"log": str(lab.log), "path": str(gate)}, timeout=1
    )
    lab.start_pool()
    wait_for(lab.lines, "it runs")
    lab.server.kill()
    lab.server.wait()
    gate.touch()
    time.sleep(3.5)  # past limit and grace
    lab.start_redis()
    assert job.result(20) == "seen"
    assert len(lab.lines()) == 1


def test_killed_three_times(lab: Lab) -> None:
    """A job that takes its worker with it is not started a fourth time, and the pool goes on."""
    job = lab.enqueue("worker_killer")
    lab.start_pool()
    with pytest.raises(RunFailedError, match="its worker was killed 3 times"):
        job.result(30)
    assert len(lab.lines()) == 3
    assert len({line[1] for line in lab.lines()}) == 3
    assert lab.enqueue("say").result(20) == "hello"


def test_task_ends_with_its_worker(lab: Lab) -> None:
    """A worker killed with -9 takes its task along; the copy starts only once the first is gone."""
    job = lab.enqueue("work", number=1, seconds=1.0)
    lab.start_pool()
    _started(lab, 1)
    os.kill(int(lab.lines()[0][2]), signal.SIGKILL)
    assert job.result(20) == 1
    assert [line[0] for line in lab.lines()] == ["start", "start", "end"]


def test_strays_in_the_intermediate_list(lab: Lab) -> None:
    """REL-2: 100 ids that a stock worker popped and lost are found, at the start at once; 100 more that are
    planted while the pool runs have finished within 30 s."""
    jobs = [lab.enqueue("say", word=str(number)) for number in range(100)]
    for _ in jobs:
        lab.redis.lmove("rq:queue:default", "rq:queue:default:intermediate")
    lab.start_pool()
    assert [job.result(20) for job in jobs] == [str(number) for number in range(100)]
    task = lab.client.catalog.short("tests.short.tasks_for_tests:say")
    late = [f"late-{number}" for number in range(100)]
    for name in late:
        job = lab.client._job_class.of(
            task, {"log": str(lab.log), "word": name}, connection=lab.redis, job_id=name
        )
        job.save()
    lab.redis.rpush("rq:queue:default:intermediate", *late)
    give_up = time.monotonic() + 30
    for name in late:
        assert ShortJob(lab.config, lab.redis, name).result(give_up - time.monotonic()) == name
    assert len(lab.lines()) == 200


def test_claim_whose_reply_was_lost(lab: Lab) -> None:
    """A worker that asks again, because the reply to its claim was lost, gets the same job, not a second
    one; and if it dies the job goes back to the front."""
    first, second = (lab.enqueue("say", word=word) for word in ("a", "b"))
    scripts = Scripts(lab.redis)
    name = name_prefix(lab.config) + "gone"
    claims = [scripts.claim(name, execution, lab.config.short.queues) for execution in ("x", "y")]
    assert claims[0] == claims[1] and claims[0] is not None
    assert (claims[0].job_id, claims[0].execution_id) == (first.id, "x")
    assert lab.redis.lrange("rq:queue:default", 0, -1) == [second.id.encode()]
    lab.start_pool(workers=1)
    assert (first.result(20), second.result(20)) == ("a", "b")
    assert [line[1] for line in lab.lines()] == ["a", "b"]


def test_warm_stop_finishes_the_job(lab: Lab) -> None:
    """SIGTERM lets a running task end, and takes no new job."""
    gate = lab.folder / "gate"
    job = lab.enqueue("wait_for_file", path=str(gate))
    supervisor = lab.start_pool(workers=1)
    wait_for(lab.lines, "it runs")
    supervisor.terminate()
    wait_for(lambda: "pool-stop" in lab.events(), "it stops")
    waiting = lab.enqueue("say")
    gate.touch()
    assert supervisor.wait(20) == 0
    assert job.refresh().state == "finished"
    assert waiting.refresh().state == "queued"
    assert lab.redis.scard("rq:workers") == 0


def test_cold_stop_puts_the_job_back(lab: Lab) -> None:
    """A second SIGTERM kills running tasks; their jobs are first in the queue again, no death counted."""
    job = lab.enqueue("wait_for_file", path="/nonexistent/never")
    lab.enqueue("say")
    supervisor = lab.start_pool(workers=1)
    wait_for(lab.lines, "it runs")
    task = int(lab.lines()[0][1])
    supervisor.terminate()
    wait_for(lambda: "pool-stop" in lab.events(), "it stops")
    supervisor.terminate()
    assert supervisor.wait(20) == 0
    assert not alive(task)
    assert job.refresh().state == "queued"
    assert lab.redis.lindex("rq:queue:default", 0) == job.id.encode()
    assert lab.redis.hget(f"rq:job:{job.id}", "hpcpools_deaths") is None


def test_second_pool_is_refused(lab: Lab) -> None:
    """One pool per runtime directory: a second one waits a moment and gives up, and disturbs nothing."""
    lab.start_pool()
    before = lab.wait_idle_workers(2)
    second = lab.start_pool()
    assert second.wait(30) != 0
    assert "another short pool, or a process it left, still runs here" in lab.events()
    assert str(lab.config.runtime_dir / "short.lock") in lab.events()
    assert lab.workers() == before


def test_burst_ends_with_the_queues(lab: Lab) -> None:
    """With burst the pool returns 0 once nothing waits, and leaves no process."""
    jobs = [lab.enqueue("say") for _ in range(5)]
    supervisor = lab.start_pool("burst")
    assert supervisor.wait(30) == 0
    assert {job.refresh().state for job in jobs} == {"finished"}


def test_pool_without_redis_says_so(lab: Lab) -> None:
    """A pool that cannot reach Redis at its start ends with the error, instead of waiting in silence."""
    lab.server.terminate()
    lab.server.wait()
    started: subprocess.Popen[bytes] = lab.start_pool()
    assert started.wait(30) != 0
    assert "RedisUnavailableError" in lab.events()


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return False
