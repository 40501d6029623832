"""The supervisor's part in Redis while all goes well: signs of life, rq's commands, bells that nobody rang.

Owns what is done on a timer for all workers at once, in one round trip each. Refuses to bring back to life
what has ended: a heartbeat that comes late changes nothing.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rq.suspension import WORKERS_SUSPENDED
from rq.utils import now, utcformat

from hpcpools.short.board import Work
from hpcpools.short.job import HpcJob, HpcQueue
from hpcpools.short.record import text
from hpcpools.short.scripts import LEASE, queue_key, waited, wip_key
from hpcpools.short.worker import HpcWorker

if TYPE_CHECKING:
    from redis import Redis

# KEYS: wip, execution, executions of the job, executions of the worker, job.
# ARGV: job:execution, execution, time, time as rq writes it, lease.
_BEAT = """
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 0 end
local lease = tonumber(ARGV[5])
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('HSET', KEYS[2], 'last_heartbeat', ARGV[3]) end
redis.call('EXPIRE', KEYS[2], lease)
redis.call('ZADD', KEYS[3], 'XX', ARGV[3] + lease + 60, ARGV[2])
redis.call('EXPIRE', KEYS[3], lease + 60)
redis.call('EXPIRE', KEYS[4], lease + 60)
if redis.call('EXISTS', KEYS[5]) == 1 then redis.call('HSET', KEYS[5], 'last_heartbeat', ARGV[4]) end
return 1
"""


@dataclass(frozen=True)
class Command:
    """One of rq's commands to a worker; ``job`` and ``execution`` are empty where it names none."""

    worker: str
    word: str
    job: str
    execution: str


class Watch:
    """On the supervisor's connection; every call may raise what redis-py raises while Redis is away."""

    def __init__(self, connection: Redis, job_class: type[HpcJob], prefix: str) -> None:
        self._connection = connection
        self._queues = [
            HpcQueue(queue, connection=connection, job_class=job_class)
            for queue in job_class.config.short.queues
        ]
        self._beat = connection.register_script(_BEAT)
        self._channel = f"rq:pubsub:{prefix}"
        self._pubsub = connection.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]

    def beat(self, workers: Iterable[tuple[HpcWorker, Work | None]]) -> None:
        """Worker, job and execution live: of all workers in one go."""
        when, words = time.time(), utcformat(now())
        with self._connection.pipeline(transaction=False) as pipe:
            for worker, work in workers:
                worker.last_heartbeat = now()
                pipe.hset(worker.key, mapping=worker.serialize())
                pipe.expire(worker.key, LEASE)
                pipe.sadd("rq:workers", worker.key)
                for queue in self._queues:
                    pipe.sadd(f"rq:workers:{queue.name}", worker.key)
                if work:
                    held = f"{work.job}:{work.execution}"
                    self._beat(
                        keys=[
                            wip_key(work.queue),
                            f"rq:execution:{held}",
                            f"rq:executions:{work.job}",
                            worker.executions_key,
                            f"rq:job:{work.job}",
                        ],
                        args=[held, work.execution, when, words, LEASE],
                        client=pipe,
                    )
            pipe.execute()

    def forget(self, workers: Iterable[HpcWorker]) -> None:
        """Take workers that are gone off rq's lists."""
        with self._connection.pipeline(transaction=False) as pipe:
            for worker in workers:
                pipe.srem("rq:workers", worker.key)
                for queue in self._queues:
                    pipe.srem(f"rq:workers:{queue.name}", worker.key)
                pipe.delete(worker.key, worker.executions_key)
            pipe.execute()

    def commands(self) -> Iterator[Command]:
        """What rq's tools told our workers since the last call."""
        if not self._pubsub.subscribed:
            self._pubsub.psubscribe(f"{self._channel}*")
        while message := self._pubsub.get_message(timeout=0):
            with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError):
                said: dict[str, Any] = json.loads(message["data"])
                worker = message["channel"].decode().removeprefix("rq:pubsub:")
                words = (str(said.get(name) or "") for name in ("command", "job_id", "execution_id"))
                yield Command(worker, *words)

    def waiting(self) -> dict[HpcQueue, int]:
        """How many jobs wait in each queue; in none, while rq is suspended."""
        with self._connection.pipeline(transaction=False) as pipe:
            pipe.exists(WORKERS_SUSPENDED)
            for queue in self._queues:
                pipe.llen(queue_key(queue.name))
            suspended, *waiting = pipe.execute()
        return {
            queue: 0 if suspended else number for queue, number in zip(self._queues, waiting, strict=True)
        }

    def oldest(self) -> float:
        """Seconds that the job has waited that waits longest at the front of a queue; 0 without one."""
        with self._connection.pipeline(transaction=False) as pipe:
            for queue in self._queues:
                pipe.lindex(queue_key(queue.name), 0)
            first = [text(member) for member in pipe.execute() if member]
            for job in first:
                pipe.hget(f"rq:job:{job}", "enqueued_at")
            enqueued = pipe.execute(raise_on_error=False)
        present = utcformat(now()).encode()
        return max(
            (waited({b"enqueued_at": e, b"started_at": present}) for e in enqueued if isinstance(e, bytes)),
            default=0.0,
        )
