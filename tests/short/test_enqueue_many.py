"""Many jobs in one round trip: in order, all of them or none, signed like any other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import hpcpools
from hpcpools.errors import RedisUnavailableError, RefusedError, UsageError
from hpcpools.short.options import JobOptions
from tests.short.lab import TASKS, Lab

SAY = f"{TASKS}:say"


def texts(lab: Lab, number: int, first: int = 0) -> list[dict[str, Any]]:
    """The arguments of so many jobs."""
    return [{"log": str(lab.log), "word": f"w{first + each}"} for each in range(number)]


def reads(lab: Lab) -> int:
    """Requests that Redis has read so far."""
    return int(lab.redis.info("stats")["total_reads_processed"])


@pytest.fixture(autouse=True)
def _no_services(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The lab has its own Redis; nothing is to be started beside it."""
    monkeypatch.setenv("HPCPOOLS_SERVICES__AUTOSTART", "false")
    monkeypatch.setenv("HPCPOOLS_CONFIG", str(lab.folder / "hpcpools.toml"))
    return iter([None])


def test_many_jobs_run_in_order(lab: Lab) -> None:
    """In the order given, and at the front before those that wait already; handles of all."""
    later = lab.enqueue("say", word="later")
    jobs = hpcpools.enqueue_many(SAY, texts(lab, 50), at_front=True)
    jobs += hpcpools.enqueue_many(SAY, iter(texts(lab, 5, 50)))
    assert len({job.id for job in jobs}) == 55
    lab.start_pool("burst", workers=1).wait(60)
    words = [line[1] for line in lab.lines()]
    expected = [f"w{number}" for number in range(50)] + ["later"] + [f"w{50 + number}" for number in range(5)]
    assert words == expected
    assert later.result(5) == "later"
    assert [job.result(5) for job in jobs] == [f"w{number}" for number in range(55)]


def test_one_round_trip(lab: Lab) -> None:
    """For one job; for a thousand one transaction, even after Redis has forgotten its scripts."""
    lab.enqueue("say", word="first")  # the version of Redis is asked once
    lab.redis.script_flush()
    before = reads(lab)
    lab.enqueue("say")
    assert reads(lab) - before - 1 == 1
    lab.redis.script_flush()
    lab.redis.config_resetstat()
    lab.client.send_many(lab.client.catalog.short(SAY), texts(lab, 1000), JobOptions())
    calls = lab.redis.info("commandstats")
    assert calls["cmdstat_exec"]["calls"] == 1
    assert {name for name, facts in calls.items() if facts["failed_calls"]} == set()
    assert lab.redis.llen("rq:queue:default") == 1002


def test_nothing_is_written_if_one_is_wrong(lab: Lab) -> None:
    """The last of many is not fit; an option that is for one job; a full Redis."""
    good = texts(lab, 3)
    with pytest.raises(UsageError, match="nonsense"):
        hpcpools.enqueue_many(SAY, [*good, {"log": "x", "nonsense": 1}])
    with pytest.raises(UsageError):
        hpcpools.enqueue_many(SAY, [*good, {"log": "x", "word": object()}])
    with pytest.raises(UsageError, match="job_id"):
        hpcpools.enqueue_many(SAY, good, job_id="x")
    with pytest.raises(RefusedError):
        hpcpools.enqueue_many(f"{TASKS}:undeclared", good)
    assert hpcpools.enqueue_many(SAY, []) == []
    lab.redis.config_set("maxmemory", 1)
    with pytest.raises(RedisUnavailableError, match="full"):
        hpcpools.enqueue_many(SAY, good)
    lab.redis.config_set("maxmemory", 0)
    assert lab.redis.keys("rq:*") == []


def test_options_hold_for_each(lab: Lab) -> None:
    """Queue, limit and tries of all of them."""
    jobs = hpcpools.enqueue_many(SAY, texts(lab, 2), queue="evaluation", timeout="1m", retries=2)
    for job in jobs:
        timeout, left, origin = lab.redis.hmget(f"rq:job:{job.id}", "timeout", "retries_left", "origin")
        assert (timeout, left, origin) == (b"60", b"2", b"evaluation")
    assert lab.redis.llen("rq:queue:evaluation") == 2
