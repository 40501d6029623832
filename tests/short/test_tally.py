"""Durations counted by many processes arrive in Redis once each, also when Redis was away in between."""

from __future__ import annotations

import os

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from hpcpools.short import outcome
from hpcpools.short.tally import BOUNDS, FAILED, OTHER, RAN, WAITED, Histogram, Tally, causes, read
from tests.short.lab import TASKS, Lab, wait_for
from tests.short.rq_tools import configure


def test_children_count_in_their_own_lines(lab: Lab) -> None:
    """Four processes, each 1000 times; the sums are exact."""
    tally = Tally(4, ["m:a", "m:b"], ["default"])
    for line in range(4):
        if (pid := os.fork()) == 0:
            for number in range(1000):
                tally.ran(
                    line, "m:a" if number % 2 else "m:strange", 0.001, cause="limit" * (number % 4 == 1)
                )
                tally.waited(line, "default", 100.0)
            os._exit(0)
        os.waitpid(pid, 0)
    tally.bring(lab.redis)
    tally.bring(lab.redis)
    found = read(lab.redis)
    assert {row: sum(each.counts) for row, each in found.items()} == {
        (RAN, OTHER): 2000,
        (RAN, "m:a"): 1000,
        (FAILED, "m:a"): 1000,
        (WAITED, "default"): 4000,
    }
    assert causes(lab.redis) == {**dict.fromkeys(outcome.CAUSES, 0), outcome.LIMIT: 1000}
    assert found[RAN, OTHER].counts[0] == 2000
    assert found[WAITED, "default"].total == pytest.approx(400_000)
    assert found[WAITED, "default"].counts[BOUNDS.index(300.0)] == 4000


def test_bounds_and_outages(lab: Lab) -> None:
    """A value on a bound is within it, one beyond the last has its own place; an outage loses nothing."""
    tally = Tally(1, ["m:a"], [])
    for seconds in (0.0, 0.005, 0.0051, 1800.0, 1800.1):
        tally.ran(0, "m:a", seconds)
    lab.server.kill()
    lab.server.wait()
    with pytest.raises(RedisConnectionError):
        tally.bring(lab.redis)
    lab.start_redis()
    tally.bring(lab.redis)
    wanted = [0] * (len(BOUNDS) + 1)
    wanted[0], wanted[1], wanted[-2], wanted[-1] = 2, 1, 1, 1
    wait_for(lambda: read(lab.redis), "it is there")
    assert read(lab.redis)[RAN, "m:a"] == Histogram(tuple(wanted), 3600.1101)


def test_a_death_counts_once_and_only_for_what_ran() -> None:
    """Redis may go away while a dead child is settled, so that it is done twice; an idle one held nothing."""
    tally = Tally(2, ["m:a"], [])
    tally.starts(0, "m:a")
    tally.died(0, 1.0, outcome.LIMIT)
    tally.died(0, 1.0, outcome.LIMIT)
    tally.starts(1, "m:a")
    tally.ran(1, "m:a", 1.0)
    tally.died(1, 1.0, outcome.ENDED)
    assert tally.counted() == {
        "ran 4 m:a": 1,
        "ran 12 m:a": 10**6,
        "failed 4 m:a": 1,
        "failed 12 m:a": 10**6,
    } | {"cause limit": 1}


def test_failures_that_the_supervisor_settles_are_counted_with_their_cause(lab: Lab) -> None:
    """Overrun, too much memory, stopped, crashed, its worker killed three times: each is one failure of its
    task in what the exporter reads, beside the one that raised."""
    configure(lab, "memory_mb = 200")
    jobs = {
        outcome.RAISED: lab.enqueue("die", how="raise"),
        outcome.LIMIT: lab.enqueue("hang", how="block"),
        outcome.MEMORY: lab.enqueue("eat", mib=320),
        outcome.ENDED: lab.enqueue("die", how="segfault"),
        outcome.LOST: lab.enqueue("worker_killer"),
        outcome.ASKED: lab.enqueue("wait_for_file", path="/nonexistent/never"),
    }
    lab.start_pool(workers=3)
    wait_for(lambda: ["wait"] in [line[:1] for line in lab.lines()], "it runs")
    jobs[outcome.ASKED].cancel()
    for job in jobs.values():
        job.wait(30)
    wanted = dict.fromkeys(outcome.CAUSES, 1)
    wait_for(lambda: sum(causes(lab.redis).values()) >= len(wanted), "all are counted")
    assert causes(lab.redis) == wanted
    failed = {name: sum(each.counts) for (kind, name), each in read(lab.redis).items() if kind == FAILED}
    names = ("hang", "eat", "worker_killer", "wait_for_file")
    assert failed == {f"{TASKS}:die": 2, **{f"{TASKS}:{name}": 1 for name in names}}
