"""New jobs into their queue in one round trip, one or ten thousand: all of them or none.

Owns the script that accepts a job. Refuses to touch one that is there already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rq.exceptions import DuplicateJobError

from hpcpools.short.job import MAX_BELLS, HpcJob, HpcQueue

# What the jobs of one call share: the others concern a single job's id, time or place in a chain.
OPTIONS = ("queue", "at_front", "timeout", "retries", "retry_intervals", "result_ttl", "failure_ttl", "meta")

# KEYS: job, queue, rq's set of queues. ARGV: id, RPUSH or LPUSH, then the job's fields and values.
_ACCEPT = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
redis.call('SADD', KEYS[3], KEYS[2])
redis.call(ARGV[2], KEYS[2], ARGV[1])
return 1
"""


def push(queue: HpcQueue, jobs: Sequence[HpcJob], *, at_front: bool = False) -> None:
    """Put new jobs into ``queue`` in one transaction; they run in the order given.

    Raises rq's DuplicateJobError, for one job only, if its id is taken: among many, whose ids are random,
    that is this very call, which redis-py repeated as its answer was lost. Raises what redis-py raises.
    """
    script = queue.connection.register_script(_ACCEPT)
    word = "LPUSH" if at_front else "RPUSH"
    with queue.connection.pipeline(transaction=True) as pipe:
        for number, job in enumerate(reversed(jobs) if at_front else jobs):
            queue._prepare_for_queue(job)
            # The first one brings the script, so that Redis knows it for the rest, even after a restart.
            run, code = (pipe.evalsha, script.sha) if number else (pipe.eval, _ACCEPT)
            run(code, 3, job.key, queue.key, queue.redis_queues_keys, job.id, word, *_fields(job))
        for _ in range(min(len(jobs), MAX_BELLS)):
            queue.ring(pipe)
        accepted = pipe.execute()[: len(jobs)]
    if len(jobs) == 1 and not accepted[0]:
        raise DuplicateJobError(f"job {jobs[0].id} exists")


def _fields(job: HpcJob) -> list[Any]:
    return [word for pair in job.to_dict().items() if pair[1] is not None for word in pair]
