"""Our script for a plain success leaves in Redis what rq's own code leaves: key by key, field by field."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import now

from hpcpools.short.board import Work
from hpcpools.short.finish import Steps, Success
from hpcpools.short.job import Json
from hpcpools.short.scripts import Claim, Scripts
from hpcpools.short.worker import HpcWorker
from tests.short.lab import TASKS, Lab

QUEUES = ("default", "evaluation")
VARIANTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "value": ({"loss": 0.5, "names": ["a", "ä"]}, {}),
    "none": (None, {}),
    "retries": (7, {"retries": 3}),
    "options": ("x", {"meta": {"note": 1}, "result_ttl": 60, "timeout": 5, "queue": "evaluation"}),
}


def _claim(lab: Lab, worker: str, job_id: str, options: dict[str, Any]) -> Claim:
    """The one job of that id, held by ``worker``."""
    lab.client.enqueue(f"{TASKS}:say", {"log": str(lab.log)}, job_id=job_id, **options)
    claim = Scripts(lab.redis).claim(worker, f"{worker}exec", QUEUES)
    assert claim is not None and claim.job_id == job_id
    return claim


def _dump(lab: Lab) -> dict[str, Any]:
    """Everything of rq in Redis; times are made equal."""
    redis: Any = lab.redis
    kinds: dict[bytes, Callable[[bytes], Any]] = {
        b"hash": redis.hgetall,
        b"set": lambda key: sorted(redis.smembers(key)),
        b"zset": lambda key: [
            (member, round(score - time.time(), -1))
            for member, score in redis.zrange(key, 0, -1, withscores=True)
        ],
        b"list": lambda key: redis.lrange(key, 0, -1),
        b"stream": lambda key: [fields for _, fields in redis.xrange(key)],
        b"string": redis.get,
    }

    def equal(text: str) -> str:
        text = re.sub(r"20\d\d-\d\d-\d\dT[\d:.]+Z", "DATE", text)
        return re.sub(r"\b1\d{9}(\.\d+)?\b", "STAMP", text)

    found = {}
    for key in redis.keys("rq:*"):
        content = kinds[redis.type(key)](key)
        if isinstance(content, dict):
            content = dict(sorted(content.items()))
            if b"total_working_time" in content:
                assert 0 <= float(content.pop(b"total_working_time")) < 5
        ttl = redis.ttl(key)
        found[key.decode()] = (equal(repr(content)), round(ttl, -1))
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_plain_success_is_written_as_rq_writes_it(lab: Lab, variant: str) -> None:
    """The same job ended by our script and by rq's handle_job_success; nothing else differs."""
    assert version("rq").startswith("3."), "compare again with the new rq before its bound is raised"
    value, options = VARIANTS[variant]
    ours = _claim(lab, "worker", "the-job", options)
    job_class = lab.client._job_class
    ttl = job_class.claimed(ours.job_id, ours.fields, lab.redis, ours.queue).result_ttl or 0
    done, following = Steps(lab.redis, "worker").finish(
        Success.of(ours, Json.dumps(value), ttl), "next", QUEUES, go_on=False
    )
    assert (done, following) == (True, None)
    mine = _dump(lab)
    lab.redis.flushall()

    stock = _claim(lab, "worker", "the-job", options)
    job = job_class.load(stock.job_id, lab.redis)
    job._result, job.ended_at = value, now()
    work = Work(stock.queue, stock.job_id, stock.execution_id)
    assert HpcWorker("worker", connection=lab.redis, job_class=job_class).succeed(work, job)
    theirs = _dump(lab)
    assert mine == theirs
    assert any("results" in key for key in mine)
    fetched = Job.fetch("the-job", connection=lab.redis, serializer=JSONSerializer)
    assert (fetched.get_status().value, fetched.return_value()) == ("finished", value)


def test_a_finish_whose_reply_was_lost_is_harmless(lab: Lab) -> None:
    """Sent twice: one result, one success counted, and the job claimed with it is the same."""
    claim = _claim(lab, "w", "first", {})
    lab.client.enqueue(f"{TASKS}:say", {"log": str(lab.log)}, job_id="second")
    lab.client.enqueue(f"{TASKS}:say", {"log": str(lab.log)}, job_id="third")
    steps, success = Steps(lab.redis, "w"), Success.of(claim, b"1", 60)
    answers = [steps.finish(success, execution, QUEUES, go_on=True) for execution in ("x", "y")]
    assert answers[0] == answers[1]
    assert answers[0][1] is not None and answers[0][1].job_id == "second"
    assert lab.redis.xlen("rq:results:first") == 1
    assert lab.redis.hget("rq:worker:w", "successful_job_count") == b"1"
    assert lab.redis.lrange("rq:queue:default", 0, -1) == [b"third"]


def test_who_removed_the_execution_owns_the_outcome(lab: Lab) -> None:
    """A job that was put back meanwhile is not finished by the one who lost it."""
    claim = _claim(lab, "w", "first", {})
    assert Scripts(lab.redis).put_back("default", "first", claim.execution_id, "w", count=True) == 1
    Steps(lab.redis, "w").finish(Success.of(claim, b"1", 60), "x", QUEUES, go_on=False)
    assert lab.redis.hget("rq:job:first", "status") == b"queued"
    assert not lab.redis.exists("rq:results:first")


def test_what_is_not_plain_is_left_to_rq(lab: Lab) -> None:
    """Dependents, and a result that is not to be kept: the script writes nothing and claims nothing."""
    claim = _claim(lab, "w", "first", {})
    lab.client.enqueue(f"{TASKS}:say", {"log": str(lab.log)}, job_id="second")
    steps = Steps(lab.redis, "w")
    assert steps.finish(Success.of(claim, b"1", 0), "x", QUEUES, go_on=True) == (False, None)
    lab.redis.sadd("rq:job:first:dependents", "third")
    assert steps.finish(Success.of(claim, b"1", 60), "x", QUEUES, go_on=True) == (False, None)
    assert lab.redis.hget("rq:job:first", "status") == b"started"
    assert lab.redis.zcard("rq:wip:default") == 1
