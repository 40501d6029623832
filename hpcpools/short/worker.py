"""One worker as rq knows it: its registration, and what rq itself writes when a job did not end plainly.

Owns the use of rq's bookkeeping for failures, retries and dependents, by the child that ran the job or, once
that is dead, by the supervisor. Refuses to write an outcome for an execution that is settled already.
"""

from __future__ import annotations

import os
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from rq import Worker
from rq.exceptions import NoSuchJobError
from rq.executions import Execution
from rq.queue import Queue
from rq.utils import now

from hpcpools.eventlog import event, log
from hpcpools.short import outcome
from hpcpools.short.board import Work
from hpcpools.short.job import HpcJob, HpcQueue, Json
from hpcpools.short.scripts import LEASE, Scripts, wip_key

if TYPE_CHECKING:
    from redis import Redis


class HpcWorker(Worker):
    """A worker is a place in the pool: children come and go, its name and its counts stay."""

    queue_class: type[Queue] = HpcQueue

    def __init__(self, name: str, *, connection: Redis, job_class: type[HpcJob]) -> None:
        super().__init__(
            [
                HpcQueue(queue, connection=connection, job_class=job_class)
                for queue in job_class.config.short.queues
            ],
            name=name,
            connection=connection,
            job_class=job_class,
            serializer=Json,
            worker_ttl=LEASE,
            log_job_description=False,
        )
        self._class = job_class
        self._scripts = Scripts(connection)
        self.birth_date = self.last_heartbeat = now()

    def _set_connection(self, connection: Redis) -> Redis:
        return connection  # rq would raise its reply timeout to minutes

    def _set_ip_address(self, connection: Redis) -> None:
        self.ip_address = "unknown"  # rq would ask Redis, twice, for what a unix socket does not have

    def born(self, pid: int) -> None:
        """It is served by process ``pid`` from now on."""
        self.pid = pid
        self.birth_date = self.last_heartbeat = now()

    def holds(self, work: Work) -> bool:
        """Whether the outcome is still to be written."""
        held = f"{work.job}:{work.execution}"
        return self.connection.zscore(wip_key(work.queue), held) is not None

    def fail(self, work: Work, reason: str, trace: str = "", meta: dict[str, Any] | None = None) -> bool:
        """Write a failure, or the next try; True once it is settled. ``meta``: as the task left it."""
        if not self.holds(work):
            return True
        log.warning(event("fail", job=work.job, queue=work.queue, reason=reason))
        try:
            job = self._class.load(work.job, self.connection).came_from(work.queue)
        except NoSuchJobError:
            self.put_back(work)  # which then only forgets it
            return True
        if meta is not None:
            job.meta = meta
        job.ended_at = now()
        self._stopped_job_id = job.id if reason == outcome.STOPPED else None
        self.handle_job_failure(
            job, self._queue(work), exc_string=trace or reason, execution=self._execution(work)
        )
        return not self.holds(work)

    def succeed(self, work: Work, job: HpcJob) -> bool:
        """Write a success with all that depends on it; True once it is settled."""
        if not self.holds(work):
            return True
        queue = self._queue(work)
        self.handle_job_success(job, queue, queue.started_job_registry, self._execution(work))
        return not self.holds(work)

    def put_back(self, work: Work) -> None:
        """Back to the front of its queue, and no death counted."""
        log.warning(event("put-back", job=work.job, queue=work.queue))
        self._scripts.put_back(work.queue, work.job, work.execution, self.name, count=False)

    def _queue(self, work: Work) -> HpcQueue:
        return HpcQueue(work.queue, self.connection, job_class=self._class)

    def _execution(self, work: Work) -> Execution:
        execution = Execution(work.execution, work.job, self.connection, worker_name=self.name)
        created: Any = self.connection.hget(execution.key, "created_at")
        if created:
            execution.created_at = datetime.fromtimestamp(float(created), tz=timezone.utc)
        return execution


def new_execution_id() -> str:
    """As rq makes them."""
    return os.urandom(16).hex()
