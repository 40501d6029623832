"""What dead workers held goes back to the front of its queue, at once, and never while a copy still runs.

Owns the sweep over rq's registries and the worker names by which we know our dead. Refuses to touch what a
live worker holds, ours or a stranger's.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from rq.exceptions import NoSuchJobError
from rq.executions import Execution
from rq.job import JobStatus
from rq.registry import FailedJobRegistry, FinishedJobRegistry, ReadyJobRegistry

from hpcpools.config import Config
from hpcpools.errors import RefusedError
from hpcpools.eventlog import event, log
from hpcpools.redisdb.outage import AWAY
from hpcpools.short import outcome
from hpcpools.short.job import HpcJob, HpcQueue, Json
from hpcpools.short.scripts import DEATHS, MAX_DEATHS, POISON, Scripts, intermediate_key, wip_key
from hpcpools.short.tally import OTHER, Tally

if TYPE_CHECKING:
    from redis import Redis


LANE = "lane-"  # the names of the Slurm lane's workers begin so; only the lane knows whether such a one lives


def name_prefix(config: Config) -> str:
    """How all worker names of this pool on this host begin."""
    where = f"{socket.gethostname()}:{os.path.realpath(config.runtime_dir)}"
    return hashlib.sha256(where.encode()).hexdigest()[:8] + "-"


class Recovery:
    """The sweeps of one pool. ``live`` in each call are the names of our workers that may still run.

    What the Slurm lane holds is left alone: it runs on other machines, and the lane gives it back itself.
    """

    def __init__(self, connection: Redis, job_class: type[HpcJob], tally: Tally) -> None:
        self._connection = connection
        self._job_class = job_class
        self._queues = job_class.config.queues
        self._prefix = name_prefix(job_class.config)
        self._scripts = Scripts(connection)
        self._tally = tally
        self._seen: set[tuple[str, str]] = set()

    def sweep(self, live: Collection[str], *, first: bool = False) -> None:
        """Everything: what the dead held, stray ids, stale names, rq's own expiry.

        ``first``: no worker of ours has started yet, so stray ids need not be seen twice.
        """
        self.recover(live)
        self._adopt_strays(at_once=first)
        self._forget_workers(live)
        past = time.time() - self._job_class.config.short.failure_ttl
        self._drop_strangers()
        for queue in self._queues:
            self._connection.zremrangebyscore(f"rq:canceled:{queue}", 0, past)
            for registry in (FinishedJobRegistry, FailedJobRegistry, ReadyJobRegistry):
                registry(
                    queue,
                    connection=self._connection,
                    job_class=self._job_class,
                    serializer=Json,
                ).cleanup()

    def recover(self, live: Collection[str], *, only: str = "", count: bool = True, cause: str = "") -> None:
        """Put back, or fail for good, every job whose worker is dead.

        ``only``: of this worker, which is dead although it is in ``live``. ``count``: it was no accident.
        ``cause``: how it died, if that is known.
        """
        held = self._held()
        known = dict.fromkeys((worker for *_, worker in held if worker), True)
        strangers = [name for name in known if not name.startswith(self._prefix)]
        with self._connection.pipeline(transaction=False) as pipe:
            for name in strangers:
                pipe.exists(f"rq:worker:{name}")
            known |= dict(zip(strangers, map(bool, pipe.execute()), strict=True))
        for queue, job_id, execution_id, worker in held:
            alive = worker in live if worker.startswith(self._prefix) else known.get(worker, False)
            if worker != only if only else alive or worker.startswith(LANE):
                continue
            try:
                self._return(queue, job_id, execution_id, worker, count=count, cause=cause)
            except AWAY:
                raise
            except Exception as error:  # one odd record must not keep the others from coming back
                log.error(event("recover-fail", job=job_id, queue=queue, error=error))

    def _held(self) -> list[tuple[str, str, str, str]]:
        """(queue, job, execution, worker) of every execution that rq's registries know."""
        with self._connection.pipeline(transaction=False) as pipe:
            for queue in self._queues:
                pipe.zrange(wip_key(queue), 0, -1)
            found = [
                (queue, *member.decode("utf-8", "replace").rpartition(":")[::2])
                for queue, members in zip(self._queues, pipe.execute(), strict=True)
                for member in members
            ]
            for _, job_id, execution_id in found:
                pipe.hget(f"rq:execution:{job_id}:{execution_id}", "worker_name")
                pipe.hget(f"rq:job:{job_id}", "worker_name")
            names = pipe.execute(raise_on_error=False)
        return [
            (*each, _name(names[2 * number]) or _name(names[2 * number + 1]))
            for number, each in enumerate(found)
        ]

    def _return(
        self, queue: str, job_id: str, execution_id: str, worker: str, *, count: bool, cause: str
    ) -> None:
        answer = self._scripts.put_back(queue, job_id, execution_id, worker, count=count)
        if answer == POISON:
            reason = outcome.killed_too_often(MAX_DEATHS, cause)
            log.error(event("fail", job=job_id, queue=queue, worker=worker, reason=reason))
            self._fail(queue, job_id, execution_id, worker, reason)
        elif answer:
            log.warning(event("recover", job=job_id, queue=queue, worker=worker))

    def _fail(self, queue: str, job_id: str, execution_id: str, worker: str, reason: str) -> None:
        execution = Execution(execution_id, job_id, self._connection, worker_name=worker)
        with self._connection.pipeline() as pipe:
            try:
                job = self._job_class.load(job_id, self._connection).came_from(queue)
            except (NoSuchJobError, ValueError):  # planted: nothing to fail
                pipe.zrem(wip_key(queue), execution.composite_key)
                pipe.execute()
                return
            job.set_status(JobStatus.FAILED, pipeline=pipe)
            execution.delete(job, pipe)
            job._handle_failure(reason, pipe, worker_name=worker)
            pipe.hdel(job.key, DEATHS)  # if it is requeued by hand, it starts afresh
            pipe.execute()
        self._tally.lost(*_last_seen(job))
        HpcQueue(queue, connection=self._connection, job_class=self._job_class).enqueue_dependents(job)

    def _drop_strangers(self) -> None:
        """Ids that stand ready for a queue they were not signed for; rq would put them there."""
        for queue in self._queues:
            for job_id in map(_name, self._connection.zrange(f"rq:ready:{queue}", 0, 999)):
                try:
                    job = self._job_class.load(job_id, self._connection)
                    good = not job.refusal and job.origin == queue
                except (NoSuchJobError, ValueError):
                    good = False
                if not good:
                    self._connection.zrem(f"rq:ready:{queue}", job_id)
                    log.warning(event("drop", job=job_id, queue=queue))

    def _adopt_strays(self, *, at_once: bool) -> None:
        """Ids in rq's intermediate lists: our claims never pass there, so nobody of ours holds them.

        A stock worker may, for a moment; so they must be there at two sweeps.
        """
        with self._connection.pipeline(transaction=False) as pipe:
            for queue in self._queues:
                pipe.lrange(intermediate_key(queue), 0, 999)
            lists = pipe.execute(raise_on_error=False)
        now = {
            (queue, member.decode("utf-8", "replace"))
            for queue, members in zip(self._queues, lists, strict=True)
            if isinstance(members, list)
            for member in members
        }
        for queue, job_id in sorted(now if at_once else now & self._seen):
            adopted = self._scripts.adopt(queue, job_id)
            log.warning(event("adopt" if adopted else "drop", job=job_id, queue=queue))
        self._seen = now

    def _forget_workers(self, live: Collection[str]) -> None:
        """Remove registrations of workers that are gone, so that rq's tools do not list them."""
        names: Sequence[str] = [
            _name(key).removeprefix("rq:worker:") for key in self._connection.smembers("rq:workers")
        ]
        with self._connection.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.exists(f"rq:worker:{name}")
            there = dict(zip(names, pipe.execute(), strict=True))
            for name in names:
                ours = name.startswith(self._prefix)
                if (ours and name not in live) or not (ours or there[name]):
                    pipe.srem("rq:workers", f"rq:worker:{name}")
                    pipe.delete(f"rq:worker:{name}", f"rq:worker:{name}:executions")
                    for queue in self._queues:
                        pipe.srem(f"rq:workers:{queue}", f"rq:worker:{name}")
            pipe.execute()


def _last_seen(job: HpcJob) -> tuple[str, float]:
    """Its task, and for how many seconds its last worker is known to have run it."""
    try:
        name = job.entry().name
    except RefusedError:
        name = OTHER
    beat, start = job.last_heartbeat, job.started_at
    return name, max(0.0, (beat - start).total_seconds()) if beat and start else 0.0


def _name(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""
