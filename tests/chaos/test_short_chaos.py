"""Chaos in the short pool: workers, supervisor, the whole pool and Redis killed with -9 under load.

The tasks' own append-only log and locks judge, not hpcpools. One small seed in `make test`; `make chaos`
makes it 20 seeds of 1000 jobs, 50 deaths of Redis and an outage of 30 s (REL-1, REL-4, REL-5).
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence

import pytest

from hpcpools.errors import RedisUnavailableError
from hpcpools.short.enqueue import ShortJob
from tests.chaos.conftest import WORKERS
from tests.short.lab import Lab, alive, descendants, wait_for

FULL = "HPCPOOLS_CHAOS_SHORT" in os.environ
SEEDS = range(20 if FULL else 1)
JOBS = 1000
SECONDS = 0.15 if FULL else 0.03
KILL_EVERY = 2.0 if FULL else 1.0  # seconds
REDIS_DEATHS = 50 if FULL else 4
OUTAGE = 30.0 if FULL else 3.0  # seconds
WORK = "tests.short.tasks_for_tests:work"


def enqueue(lab: Lab, number: int, seconds: float = SECONDS) -> ShortJob:
    """A job that says when it starts and ends, and holds a lock that a second live copy would meet."""
    return lab.client.enqueue(
        WORK, {"log": str(lab.log), "number": number, "seconds": seconds}, retries=1, job_id=f"job-{number}"
    )


def judge(lab: Lab, jobs: Sequence[ShortJob], kills: int, patience: float) -> None:
    """0 lost, no two live copies, no more repeats than kills, nothing left in rq's registries."""
    numbers = {job.id.removeprefix("job-") for job in jobs}
    give_up = time.monotonic() + patience
    states = {job.id: job.wait(max(0.1, give_up - time.monotonic())) for job in jobs}
    lines = lab.lines()
    starts = Counter(line[1] for line in lines if line[0] == "start")
    overlaps = [line for line in lines if line[0] == "overlap"]
    # A job of which three workers were killed is not started again: it failed and says so, it is not lost.
    failed = [job for job in jobs if states[job.id] == "failed"]
    unlucky = {job.id for job in failed if "its worker was killed 3 times" in job.reason()}
    ended = {line[1] for line in lines if line[0] == "end"} | {job[4:] for job in unlucky}
    lost, repeats = numbers - ended, sum(starts.values()) - len(starts)
    print(
        f"figures: jobs {len(numbers)}, kills {kills}, lost {len(lost)}, failed {len(unlucky)}, "
        f"repeats {repeats}, overlaps {len(overlaps)}"
    )
    assert overlaps == []
    assert {job: state for job, state in states.items() if state != "finished"}.keys() <= unlucky
    assert len(unlucky) <= 3
    assert lost == set()
    assert repeats <= kills
    for key in ("rq:wip:default", "rq:queue:default", "rq:queue:default:intermediate"):
        wait_for(lambda key=key: not lab.redis.exists(key), f"{key} is empty")  # type: ignore[misc]


@pytest.mark.parametrize("seed", SEEDS)
def test_processes_killed_under_load(pool: Lab, seed: int) -> None:
    """REL-1: every 2 s a worker, the supervisor or all of them die; 1000 jobs, 0 lost, repeats ≤ workers
    killed, at most one live copy, done within the ideal time and 120 s. 20 seeds."""
    chance = random.Random(seed)
    jobs = [enqueue(pool, number) for number in range(JOBS)]
    supervisor = pool.start_pool()
    began, kills = time.monotonic(), 0
    while sum(line[0] == "end" for line in pool.lines()) < JOBS - 5 * WORKERS:
        until = time.monotonic() + KILL_EVERY * chance.uniform(0.5, 1.5)
        wait_for(lambda until=until: time.monotonic() > until, "the next blow")  # type: ignore[misc]
        below = list(descendants(supervisor.pid))
        what = chance.choice(("worker", "worker", "worker", "supervisor", "pool"))
        if what == "worker":
            victims = chance.sample(below, 1) if below else []
        else:
            victims = [supervisor.pid, *(below if what == "pool" else ())]
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        kills += 1 if what == "worker" else WORKERS
        if what != "worker":
            supervisor.wait()
            wait_for(lambda below=below: not any(map(alive, below)), "no orphan lives", 5)  # type: ignore[misc]
            supervisor = pool.start_pool()
        assert time.monotonic() - began < 300, "no progress"
    assert kills >= 3
    judge(pool, jobs, kills, patience=began + JOBS * SECONDS / WORKERS + 120 - time.monotonic())


def test_redis_killed_under_load(pool: Lab) -> None:
    """REL-4: kill -9 of Redis 50 times under load; 0 of the acknowledged jobs lost, each ends once."""
    pool.start_pool()
    pool.wait_idle_workers(WORKERS)
    acknowledged: list[ShortJob] = []
    number = 0
    for death in range(REDIS_DEATHS):
        for _ in range(20):
            number += 1
            with contextlib.suppress(RedisUnavailableError):
                acknowledged.append(enqueue(pool, number, seconds=0.01))
        pool.server.kill()
        number += 1
        with contextlib.suppress(RedisUnavailableError):  # into the outage
            acknowledged.append(enqueue(pool, number, seconds=0.01))
        pool.server.wait()
        pool.start_redis()
        assert len(acknowledged) >= 20 * (death + 1) * 0.9
    judge(pool, acknowledged, kills=0, patience=60)


def test_redis_away_in_mid_job(pool: Lab) -> None:
    """REL-5: Redis is away for 30 s while 100 jobs run: one run and one result each, none left as started
    90 s later; idle workers are back within 10 s."""
    jobs = [enqueue(pool, number, seconds=1.0) for number in range(100 if FULL else WORKERS * 3)]
    pool.start_pool()
    wait_for(lambda: len(pool.lines()) >= WORKERS, "all workers are busy")
    pool.server.kill()
    pool.server.wait()
    _outage()
    pool.start_redis()
    judge(pool, jobs, kills=0, patience=90)
    pool.server.kill()
    pool.server.wait()
    _outage()
    pool.start_redis()
    assert enqueue(pool, len(jobs), seconds=0).result(10) == len(jobs)


def _outage() -> None:
    back = time.monotonic() + OUTAGE
    wait_for(lambda: time.monotonic() > back, "the outage is over", OUTAGE + 10)
