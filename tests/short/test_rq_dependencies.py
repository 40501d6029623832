"""Jobs that wait for jobs, as stock rq promises it: registries, failures, order, and what nobody may do."""

from __future__ import annotations

import json
import time

import pytest
from rq.job import JobStatus

from hpcpools.errors import NotFoundError, RefusedError, UsageError
from tests.short.lab import Lab, wait_for
from tests.short.rq_tools import give, hold, queue, release, stock


def _words(lab: Lab) -> list[str]:
    return [line[1] for line in lab.lines() if line[0] == "say"]


def test_it_runs_after_all_it_waits_for(lab: Lab) -> None:
    """A job with two dependencies, of any queues, is deferred until both have succeeded; then it runs."""
    lab.start_pool()
    first = hold(lab)
    second = give(lab, "say_later", {"word": "second"})
    child = give(lab, "say", {"word": "child"}, depends_on=[first, second.id])
    assert child.state == "deferred" and child.id in queue(lab).deferred_job_registry
    assert second.result(20) is None
    seen = stock(lab, child)
    assert set(seen.dependency_ids) == {first.id, second.id} and not seen.dependencies_are_met()
    assert child.refresh().state == "deferred" and child.id in stock(lab, first).dependent_ids
    release(lab)
    assert child.result(20) == "child" and _words(lab) == ["second", "child"]
    assert child.id not in queue(lab).deferred_job_registry
    assert child.id not in queue(lab).ready_job_registry


def test_a_chain_in_burst(lab: Lab) -> None:
    """Burst works a chain over two queues to its end, and does not run what waits for a failure."""
    one = give(lab, "say", {"word": "one"})
    two = give(lab, "say_later", {"word": "two"}, depends_on=one)
    three = give(lab, "say", {"word": "three"}, depends_on=[one, two])
    bad = give(lab, "die", {"how": "raise"})
    never = give(lab, "say", {"word": "never"}, depends_on=bad)
    anyway = give(lab, "say", {"word": "anyway"}, depends_on=bad, allow_failure=True)
    assert {job.state for job in (two, three, never, anyway)} == {"deferred"}
    assert lab.start_pool("burst", workers=1).wait(30) == 0
    states = [job.refresh().state for job in (one, two, three, bad, never, anyway)]
    assert states == ["finished", "finished", "finished", "failed", "deferred", "finished"]
    assert _words(lab).index("three") > _words(lab).index("two") > _words(lab).index("one")
    assert "anyway" in _words(lab) and "never" not in _words(lab)


def test_none_is_forgotten_while_its_parent_ends(lab: Lab) -> None:
    """Children that are enqueued in the very moment in which their parent ends all run, each once."""
    lab.start_pool()
    lab.wait_idle_workers(2)
    children = []
    for number in range(30):
        parent = give(lab, "say", {"word": "parent"})
        time.sleep(number % 10 / 2000)
        children.append(give(lab, "say", {"word": f"child{number}"}, depends_on=parent))
    assert [child.wait(20) for child in children] == ["finished"] * 30
    words = [word for word in _words(lab) if word != "parent"]
    assert sorted(words) == sorted(f"child{number}" for number in range(30))


def test_after_the_end_of_a_dependency(lab: Lab) -> None:
    """Enqueued later: at once after a success, or after an allowed failure; deferred after a failure, until
    the failed job is requeued and succeeds."""
    good, bad = give(lab, "say"), give(lab, "second_time", retries=0)
    assert lab.start_pool("burst", workers=1).wait(30) == 0
    assert (good.refresh().state, bad.refresh().state) == ("finished", "failed")
    assert give(lab, "say", {"word": "x"}, depends_on=good).state == "queued"
    assert give(lab, "say", {"word": "y"}, depends_on=[good, bad], allow_failure=True).state == "queued"
    waits = give(lab, "say", {"word": "z"}, depends_on=[good, bad])
    assert waits.state == "deferred"
    stock(lab, bad).requeue()
    assert lab.start_pool("burst", workers=1).wait(30) == 0
    assert (bad.refresh().state, waits.refresh().state) == ("finished", "finished")
    assert _words(lab) == ["hello", "x", "y", "z"]


def test_front(lab: Lab) -> None:
    """A dependent job enqueued with at_front goes before the jobs that wait already."""
    parent = give(lab, "say", {"word": "parent"})
    give(lab, "say", {"word": "last"})
    give(lab, "say", {"word": "child"}, depends_on=parent, at_front=True)
    assert lab.start_pool("burst", workers=1).wait(30) == 0
    assert _words(lab) == ["parent", "child", "last"]


def test_stopped_and_cancelled_parents_release_nobody(lab: Lab) -> None:
    """A stopped or cancelled parent counts as failed, even where failures are allowed; cancelling with
    enqueue_dependents through stock rq releases the dependent, still signed."""
    lab.start_pool()
    running = hold(lab)
    later = give(lab, "say", {"word": "no"}, depends_on=running, allow_failure=True)
    running.cancel()
    assert running.refresh().state == "stopped"
    parent = give(lab, "say", delay="1h")
    child = give(lab, "say", {"word": "no"}, depends_on=parent)
    parent.cancel()
    assert give(lab, "say").result(20) == "hello"
    assert (later.refresh().state, child.refresh().state) == ("deferred", "deferred")
    child.cancel()
    assert child.refresh().state == "canceled" and child.id in queue(lab).canceled_job_registry
    parent = give(lab, "say", delay="1h")
    child = give(lab, "say", {"word": "yes"}, depends_on=parent)
    stock(lab, parent).cancel(enqueue_dependents=True)
    assert child.result(20) == "yes" and "no" not in _words(lab)
    assert stock(lab, parent).get_status() is JobStatus.CANCELED


def test_nothing_is_written_for_a_wrong_dependency(lab: Lab) -> None:
    """Unknown ids (rq would start the job at once), no ids, a time as well: refused; a taken id, too."""
    parent = give(lab, "say", job_id="parent")
    keys = set(lab.redis.keys())
    for error, options in (
        (NotFoundError, {"depends_on": "typo"}),
        (NotFoundError, {"depends_on": ["parent", "typo"]}),
        (NotFoundError, {"depends_on": "self", "job_id": "self"}),
        (UsageError, {"depends_on": "../x"}),
        (UsageError, {"depends_on": parent, "delay": 60}),
        (RefusedError, {"depends_on": parent, "job_id": "parent", "unique": True}),
    ):
        with pytest.raises(error):
            give(lab, "say", **options)
    assert set(lab.redis.keys()) == keys


def test_a_deferred_job_of_the_same_id_is_one_job(lab: Lab) -> None:
    """An equal job is not written twice; one that waits for something else is another job, and refused."""
    parent = give(lab, "say", job_id="parent")
    for _ in range(2):
        assert give(lab, "say", job_id="child", depends_on=parent).id == "child"
    assert lab.redis.zcard("rq:deferred:default") == 1
    with pytest.raises(RefusedError, match="taken"):
        give(lab, "say", job_id="child", depends_on=parent, allow_failure=True)


@pytest.mark.parametrize(
    ("field", "value"),
    [("allow_dependency_failures", "1"), ("dependency_ids", json.dumps(["good"])), ("dependency_id", "good")],
)
def test_what_a_job_waits_for_is_signed(lab: Lab, field: str, value: str) -> None:
    """Whoever changes in Redis what a job waits for, or whether a failure will do, only gets it refused."""
    give(lab, "say", {"word": "good"}, job_id="good")
    bad = give(lab, "die", {"how": "raise"})
    child = give(lab, "say", {"word": "child"}, depends_on=bad)
    lab.redis.hset(f"rq:job:{child.id}", field, value)
    assert lab.start_pool("burst", workers=1).wait(30) == 0
    assert bad.refresh().state == "failed" and "child" not in _words(lab)
    lab.redis.rpush("rq:queue:default", child.id)
    assert lab.start_pool("burst", workers=1).wait(30) == 0
    wait_for(lambda: child.refresh().state == "failed", "refused")
    assert "signature does not match" in child.reason() and "child" not in _words(lab)
