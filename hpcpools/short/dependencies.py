"""Jobs that wait for other jobs.

Owns the one transaction that writes such a job. Refuses a dependency that is not there: rq would take it for
one that succeeded, and a slip of the finger would start the job at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rq.exceptions import DuplicateJobError
from rq.job import JobStatus

from hpcpools.errors import NotFoundError
from hpcpools.short.job import HpcJob, HpcQueue

if TYPE_CHECKING:
    from redis.client import Pipeline


def defer(queue: HpcQueue, job: HpcJob, *, at_front: bool) -> None:
    """Write a new job that waits for those it depends on; if they have succeeded it is queued at once.

    Raises rq's DuplicateJobError if its id is taken, NotFoundError for a dependency that is not there.
    """
    wanted = {HpcJob.key_for(each): each for each in job._dependency_ids}
    job.enqueue_at_front = at_front

    def write(pipe: Pipeline) -> None:
        if pipe.exists(job.key):
            raise DuplicateJobError(job.id)
        if pipe.exists(*wanted) < len(wanted):
            gone = next((each for key, each in wanted.items() if not pipe.exists(key)), "")
            raise NotFoundError(
                f"it depends on job {gone}, which is not there",
                hint="it never existed, or its result was kept long enough",
            )
        job._status = JobStatus.CREATED
        queue.enqueue_job(job, pipeline=pipe, at_front=at_front)

    queue.connection.transaction(write, job.key, *wanted)
