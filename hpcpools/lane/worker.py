"""The lane as one worker in rq's eyes, which holds many jobs at once while Slurm carries them.

Owns everything the lane does in Redis: claim, keep, finish, give back, rq's stop command. Refuses to write an
outcome for a job that it does not hold any more, so a late end changes nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from rq import Worker
from rq.exceptions import NoSuchJobError
from rq.executions import Execution
from rq.queue import Queue
from rq.utils import now, utcformat
from rq.worker.base import WorkerStatus

from hpcpools.config import Config
from hpcpools.eventlog import event, log
from hpcpools.short.job import HpcJob, HpcQueue, Json
from hpcpools.short.record import text
from hpcpools.short.recovery import LANE, name_prefix
from hpcpools.short.scripts import DEATHS, MAX_DEATHS, POISON, Scripts, queue_key, wip_key

if TYPE_CHECKING:
    from redis import Redis
    from redis.client import Pipeline

TTL = 90  # seconds that rq believes in the lane without a heartbeat
HELD_TTL = 86400  # and in what it holds: that lies on disk, and lives on while the lane is restarted


def lane_name(config: Config) -> str:
    """The worker's name of this pool's lane on this host, the same after a restart."""
    return LANE + name_prefix(config).rstrip("-")


@dataclass(frozen=True)
class Held:
    """A job that the lane has claimed; ``job`` as it was then, its signature checked."""

    queue: str
    id: str
    execution: str
    job: HpcJob


class LaneWorker(Worker):
    """See the module; ``queues`` are those it may claim from, the lane's own first."""

    queue_class: type[Queue] = HpcQueue

    def __init__(self, connection: Redis, job_class: type[HpcJob], queues: Collection[str]) -> None:
        super().__init__(
            [HpcQueue(queue, connection=connection, job_class=job_class) for queue in queues],
            name=lane_name(job_class.config),
            connection=connection,
            job_class=job_class,
            serializer=Json,
            worker_ttl=TTL,
            log_job_description=False,
        )
        self.log_result_lifespan = False
        self._class = job_class
        self._names = list(queues)
        self._scripts = Scripts(connection)
        self.birth_date = now()
        self.ip_address = "unknown"  # rq would show the socket's path
        self.pubsub = connection.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        self.pubsub.subscribe(self.pubsub_channel_name)

    def _set_connection(self, connection: Redis) -> Redis:
        return connection  # rq would raise its reply timeout to minutes

    # -- claiming -----------------------------------------------------------------------------------------

    def waited(self, queue: str) -> float:
        """Seconds that the job at the front of a queue has waited; 0 if there is none."""
        first: Any = self.connection.lindex(queue_key(queue), 0)
        if first is None:
            return 0.0
        with self.connection.pipeline(transaction=False) as pipe:
            pipe.hget(f"rq:job:{first.decode('utf-8', 'replace')}", "enqueued_at")
            [since] = pipe.execute(raise_on_error=False)  # a planted id may name anything
        with contextlib.suppress(ValueError, AttributeError):
            at = datetime.strptime(since.decode(), "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)
            return max(0.0, time.time() - at.timestamp())
        return 0.0

    def length(self, queue: str) -> int:
        """How many jobs wait in a queue."""
        return int(self.connection.llen(queue_key(queue)))

    def claim(self, queue: str) -> Held | None:
        """Take the first job of a queue; None if there is none, or rq is suspended."""
        asker = f"{self.name}-{secrets.token_hex(4)}"  # who claims must hold nothing, and we hold many
        claim = self._scripts.claim(asker, os.urandom(16).hex(), [queue])
        if claim is None:
            return None
        execution = self._execution(claim.job_id, claim.execution_id)
        with self.connection.pipeline() as pipe:
            pipe.hset(execution.key, "worker_name", self.name)
            pipe.hset(f"rq:job:{claim.job_id}", "worker_name", self.name)
            pipe.sadd(self.executions_key, execution.composite_key)
            pipe.delete(f"rq:worker:{asker}", f"rq:worker:{asker}:executions")
            self._keep(pipe, claim.queue, execution)
            pipe.execute()
        job = self._class(claim.job_id, connection=self.connection)
        job.restore(claim.fields)
        job.came_from(claim.queue)
        return Held(claim.queue, claim.job_id, claim.execution_id, job)

    def give_back(
        self,
        queue: str,
        job_id: str,
        execution_id: str,
        *,
        count: bool,
        reason: str,
        **ids: str | None,
    ) -> bool:
        """Put it at the front of its queue; ``count``: its carrier died under it, and three times is enough.

        ``ids``: ``batch`` and ``slurm_job`` that carried it, for the log. False if it must be tried again.
        """
        answer = self._scripts.put_back(queue, job_id, execution_id, self.name, count=count)
        if answer == POISON:
            reason = f"given up after {MAX_DEATHS} Slurm jobs: {reason}"
            end = {"outcome": "failed", "reason": reason, "deaths": True, **ids}
            return self.finish(queue, job_id, execution_id, end)
        if answer and reason:
            log.warning(event("put-back", job=job_id, **ids, queue=queue, reason=reason))
        return True

    def finish(self, queue: str, job_id: str, execution_id: str, end: Mapping[str, Any]) -> bool:
        """Write how a job ended (finished, failed or stopped), with its times as the node measured them.

        False if it must be tried again: rq only logs a failure that it could not write.
        """
        execution = self._execution(job_id, execution_id)
        if not self._holds(queue, execution):
            log.warning(event("orphan", job=job_id, **_carrier(end), queue=queue, outcome=end["outcome"]))
            return True
        try:
            job = self._class.load(job_id, self.connection).came_from(queue)
        except (NoSuchJobError, ValueError):  # deleted by hand: only forget it
            self._scripts.put_back(queue, job_id, execution_id, self.name, count=False)
            return True
        self._write(job, queue, execution, end)
        return not self._holds(queue, execution)

    def _write(self, job: HpcJob, queue: str, execution: Execution, end: Mapping[str, Any]) -> None:
        where = HpcQueue(queue, connection=self.connection, job_class=self._class)
        at = float(end.get("at") or time.time())
        job.ended_at, job.started_at = _moment(at), _moment(at - float(end.get("seconds") or 0.0))
        if end["outcome"] == "finished" and not job.refusal:
            job._result = end.get("result")
            self.handle_job_success(job, where, where.started_job_registry, execution)
            log.info(event("end", job=job.id, **_carrier(end), task=job.task, log=end.get("log")))
            return
        reason = f"refused: {job.refusal}" if job.refusal else str(end.get("reason", ""))
        log.warning(
            event("fail", job=job.id, **_carrier(end), queue=queue, reason=reason, log=end.get("log"))
        )
        self._stopped_job_id = job.id if end["outcome"] == "stopped" else None
        if end.get("deaths"):
            job.retries_left = None  # each death was a try already
        self.handle_job_failure(job, where, exc_string=str(end.get("trace") or reason), execution=execution)
        if end.get("deaths"):
            self.connection.hdel(job.key, DEATHS)  # if it is requeued by hand, it starts afresh

    def _holds(self, queue: str, execution: Execution) -> bool:
        return self.connection.zscore(wip_key(queue), execution.composite_key) is not None

    # -- signs of life ------------------------------------------------------------------------------------

    def beat(self, held: Collection[tuple[str, str, str]]) -> set[tuple[str, str, str]]:
        """Tell rq that the lane and what it holds are alive; those of ``held`` that it holds no more.

        ``held``: (queue, job, execution) each.
        """
        self.last_heartbeat = now()
        self._state = WorkerStatus.BUSY if held else WorkerStatus.IDLE
        with self.connection.pipeline(transaction=False) as pipe:
            pipe.hset(self.key, mapping={**self.serialize(), "state": str(self._state.value)})
            pipe.hdel(self.key, "death")
            pipe.expire(self.key, TTL)
            pipe.sadd("rq:workers", self.key)
            for queue in self._names:
                pipe.sadd(f"rq:workers:{queue}", self.key)
            pipe.expire(self.executions_key, HELD_TTL)
            pipe.execute()
            for queue, job_id, execution_id in held:
                pipe.zscore(wip_key(queue), f"{job_id}:{execution_id}")
            there = pipe.execute()
            lost = {each for each, score in zip(held, there, strict=True) if score is None}
            for queue, job_id, execution_id in set(held) - lost:
                self._keep(pipe, queue, self._execution(job_id, execution_id))
                pipe.hset(f"rq:job:{job_id}", "last_heartbeat", utcformat(now()))
            pipe.execute(raise_on_error=False)  # one odd record must not cost the others their lease
        return lost

    def _keep(self, pipe: Any, queue: str, execution: Execution) -> None:
        until = time.time() + HELD_TTL
        pipe.hset(execution.key, "last_heartbeat", time.time())
        pipe.expire(execution.key, HELD_TTL)
        pipe.zadd(wip_key(queue), {execution.composite_key: until}, xx=True)
        pipe.zadd(f"rq:executions:{execution.job_id}", {execution.id: until + 60}, xx=True)
        pipe.expire(f"rq:executions:{execution.job_id}", HELD_TTL + 60)

    def holders(self, held: Collection[tuple[str, str, str]]) -> dict[tuple[str, str, str], str]:
        """The lane that holds each of ``held`` in Redis; what none holds is left out."""
        with self.connection.pipeline(transaction=False) as pipe:
            for queue, job_id, execution_id in held:
                pipe.zscore(wip_key(queue), f"{job_id}:{execution_id}")
                pipe.hget(f"rq:execution:{job_id}:{execution_id}", "worker_name")
            answers = pipe.execute()
        return {
            each: text(name)
            for each, score, name in zip(held, answers[::2], answers[1::2], strict=True)
            if score is not None and text(name).startswith(LANE)
        }

    def inherit(self, lane: str, held: Collection[tuple[str, str, str]]) -> bool:
        """Become the holder of what another lane holds; False if that one lives.

        A lane that Redis does not know any more was silent for ``TTL``; should it come back, it is known
        again before it looks at what is its own, and one of the two sees the other.
        """
        known = f"rq:worker:{lane}"

        def take(pipe: Pipeline) -> None:
            if pipe.exists(known):
                return
            pipe.multi()
            for queue, job_id, execution_id in held:
                execution = self._execution(job_id, execution_id)
                pipe.hset(execution.key, "worker_name", self.name)
                pipe.hset(f"rq:job:{job_id}", "worker_name", self.name)
                pipe.sadd(self.executions_key, execution.composite_key)
                self._keep(pipe, queue, execution)

        taken = bool(self.connection.transaction(take, known))
        if taken:
            log.warning(event("inherit", lane=lane, jobs=len(held)))
        return taken

    def strays(self, known: Collection[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
        """What this lane, or one that is gone, holds and no batch knows: it died between the two."""
        with self.connection.pipeline(transaction=False) as pipe:
            for queue in self._names:
                pipe.zrange(wip_key(queue), 0, -1)
            members = pipe.execute()
            found = [
                (queue, *member.decode("utf-8", "replace").rpartition(":")[::2])
                for queue, listed in zip(self._names, members, strict=True)
                for member in listed
            ]
            unknown = [each for each in found if each not in known]
            for _, job_id, execution_id in unknown:
                pipe.hget(f"rq:execution:{job_id}:{execution_id}", "worker_name")
            names = pipe.execute(raise_on_error=False)
        # While a lane claims, it is called lane-HASH-RANDOM.
        lanes = ["-".join(text(name).split("-")[:2]) for name in names]
        return [
            each
            for each, lane in zip(unknown, lanes, strict=True)
            if lane == self.name or (lane.startswith(LANE) and self.inherit(lane, [each]))
        ]

    def asked_to_stop(self) -> tuple[set[str], bool]:
        """The jobs that someone wants stopped, and whether the lane itself is to end (rq's commands)."""
        jobs, shutdown = set(), False
        while self.pubsub and (message := self.pubsub.get_message(timeout=0)):
            with contextlib.suppress(ValueError, TypeError, AttributeError):
                command = json.loads(message["data"])
                shutdown |= command.get("command") == "shutdown"
                if command.get("command") in ("stop-job", "stop-execution"):
                    jobs.add(str(command.get("job_id")))
        return jobs, shutdown

    def _execution(self, job_id: str, execution_id: str) -> Execution:
        return Execution(execution_id, job_id, self.connection, worker_name=self.name)


def _carrier(end: Mapping[str, Any]) -> dict[str, Any]:
    """The ids of what a job ended in."""
    return {name: end.get(name) for name in ("batch", "slurm_job")}


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, timezone.utc)
