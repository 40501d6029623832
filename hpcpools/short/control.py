"""Acting on the pool from outside: suspend and resume it, put failed jobs back.

Owns these steps on rq's keys, each of them whole, where rq's own tools take several. Refuses to put back jobs
that are not ours as they stand, and jobs that wait or run already.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rq.exceptions import NoSuchJobError
from rq.job import JobStatus
from rq.suspension import WORKERS_SUSPENDED

from hpcpools.catalog import Catalog
from hpcpools.config import Config
from hpcpools.errors import NotFoundError, RefusedError
from hpcpools.redisdb.connect import connect
from hpcpools.redisdb.outage import told
from hpcpools.short import views
from hpcpools.short.job import HpcJob, HpcQueue, bind
from hpcpools.short.scripts import DEATHS

if TYPE_CHECKING:
    from redis.client import Pipeline

_REGISTRY = {"failed": "failed", "stopped": "failed", "canceled": "canceled"}
_EVERY = 1_000_000  # jobs: more than a pool keeps


def suspend(config: Config, seconds: float | None = None) -> None:
    """No worker takes another job, until :func:`resume` or for ``seconds``; running jobs go on.

    Raises RedisUnavailableError.
    """
    with told(), connect(config) as connection:
        connection.set(WORKERS_SUSPENDED, 1, ex=None if seconds is None else math.ceil(seconds))


def resume(config: Config) -> bool:
    """Workers take jobs again; False if they were not suspended. Raises RedisUnavailableError."""
    with told(), connect(config) as connection:
        return bool(connection.delete(WORKERS_SUSPENDED))


def suspended_for(config: Config) -> float | None:
    """Seconds until the pool resumes by itself, infinite if never; None if it is not suspended.

    Raises RedisUnavailableError.
    """
    with told(), connect(config) as connection:
        left = int(connection.ttl(WORKERS_SUSPENDED))
    return None if left == -2 else math.inf if left == -1 else float(left)


def failed_jobs(config: Config, queue: str | None = None) -> list[str]:
    """Ids of all failed jobs, of one queue or all, oldest first. Raises RedisUnavailableError."""
    return [job.id for job in reversed(views.jobs(config, queue=queue, state="failed", limit=_EVERY))]


def requeue(config: Config, job_id: str, *, at_front: bool = False, dry_run: bool = False) -> str:
    """Put a failed, stopped or cancelled job back into its queue, with all its retries; its state before.

    With ``dry_run`` only check. Raises NotFoundError, RefusedError, RedisUnavailableError.
    """
    with told(), connect(config) as connection:
        try:
            job = bind(config, Catalog({})).load(job_id, connection)
        except (NoSuchJobError, ValueError):
            raise NotFoundError(f"there is no job {job_id!r}", hint="`hpcpools jobs` lists them") from None
        state = job.get_status(refresh=False).value
        if job.refusal:
            raise RefusedError(f"job {job_id}: {job.refusal}", hint="enqueue it again")
        if state not in _REGISTRY:
            raise RefusedError(
                f"job {job_id} is {state}", hint="only failed, stopped and cancelled jobs can be put back"
            )
        if not dry_run:
            _put_back(job, f"rq:{_REGISTRY[state]}:{job.origin}", at_front)
    return state


def _put_back(job: HpcJob, registry: str, at_front: bool) -> None:
    queue = HpcQueue(job.origin, connection=job.connection, job_class=type(job))

    def write(pipe: Pipeline) -> None:
        if pipe.zscore(registry, job.id) is None:
            raise RefusedError(f"job {job.id} is no longer there to put back", hint="`hpcpools show` tells")
        job.started_at = job.ended_at = None
        job.retries_left = len(job.retry_intervals or ()) or None
        job._status = JobStatus.CREATED
        queue.enqueue_job(job, pipeline=pipe, at_front=at_front)
        pipe.zrem(registry, job.id)
        pipe.hdel(job.key, DEATHS)
        for key in (job.key, job.dependents_key):
            pipe.persist(key)

    job.connection.transaction(write, job.key, registry)
