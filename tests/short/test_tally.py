"""Durations counted by many processes arrive in Redis once each, also when Redis was away in between."""

from __future__ import annotations

import os

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from hpcpools.short.tally import BOUNDS, FAILED, OTHER, RAN, WAITED, Histogram, Tally, read
from tests.short.lab import Lab, wait_for


def test_children_count_in_their_own_lines(lab: Lab) -> None:
    """Four processes, each 1000 times; the sums are exact."""
    tally = Tally(4, ["m:a", "m:b"], ["default"])
    for line in range(4):
        if (pid := os.fork()) == 0:
            for number in range(1000):
                tally.ran(line, "m:a" if number % 2 else "m:strange", 0.001, failed=number % 4 == 1)
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
    assert found[RAN, OTHER].counts[0] == 2000
    assert found[WAITED, "default"].total == pytest.approx(400_000)
    assert found[WAITED, "default"].counts[BOUNDS.index(300.0)] == 4000


def test_bounds_and_outages(lab: Lab) -> None:
    """A value on a bound is within it, one beyond the last has its own place; an outage loses nothing."""
    tally = Tally(1, ["m:a"], [])
    for seconds in (0.0, 0.005, 0.0051, 1800.0, 1800.1):
        tally.ran(0, "m:a", seconds, failed=False)
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
