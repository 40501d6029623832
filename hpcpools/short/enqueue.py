"""Giving a job to the short pool, and the handle of a job.

Owns every check before a job is written, and waiting for its end. Refuses what is not declared, does not
fit the function, or is not plain JSON.
"""

from __future__ import annotations

import contextlib
import re
import time
import uuid
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rq.command import send_command
from rq.exceptions import DuplicateJobError
from rq.results import Result

from hpcpools import catalog, durations
from hpcpools.config import Config
from hpcpools.errors import NotFoundError, RefusedError, RunFailedError, UsageError, WaitTimeoutError
from hpcpools.redisdb.connect import connect
from hpcpools.redisdb.outage import told
from hpcpools.short.job import SIGNATURE, HpcJob, HpcQueue, Json, bind
from hpcpools.short.scripts import Scripts
from hpcpools.textsafe import json_arguments, one_line

if TYPE_CHECKING:
    from redis import Redis

ENDED = frozenset({"finished", "failed", "stopped", "canceled"})
_JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LOOK = 1.0  # seconds: a job can also end without a result, so a waiting process looks this often
_STOP = 3.0  # seconds to wait for a running job to be stopped


def fetch(config: Config, job_id: str) -> ShortJob:
    """The handle of an existing job. Raises NotFoundError, RedisUnavailableError."""
    return ShortJob(config, connect(config), job_id).refresh()


class Client:
    """A config with its tasks loaded and Redis connected, for many calls."""

    _known: Client | None = None

    def __init__(self, config: Config) -> None:
        self.config = config
        self.catalog = catalog.load(config)
        self.connection = connect(config)
        self._job_class = bind(config, self.catalog)
        self._queues: dict[str, HpcQueue] = {}

    @classmethod
    def of(cls, config: Config) -> Client:
        """The client of this config; the last one is kept."""
        if cls._known is None or cls._known.config != config:
            cls._known = cls(config)
        return cls._known

    def enqueue(
        self,
        task: str | Callable[..., Any],
        arguments: dict[str, Any],
        *,
        queue: str | None = None,
        at_front: bool = False,
        timeout: str | float | None = None,
        retries: int | None = None,
        job_id: str | None = None,
    ) -> ShortJob:
        """As :func:`hpcpools.enqueue`."""
        entry = self.catalog.short(
            task if isinstance(task, str) else f"{task.__module__}:{task.__qualname__}"
        )
        catalog.check_arguments(entry, arguments)
        json_arguments(arguments)
        self._check(queue, retries, job_id)
        job = self._job_class.of(
            entry,
            arguments,
            connection=self.connection,
            job_id=job_id or str(uuid.uuid4()),
            queue=queue,
            timeout=None if timeout is None else durations.seconds(timeout),
            retries=retries,
        )
        with told():
            self._push(job, at_front)
        return ShortJob(self.config, self.connection, job.id, state="queued", queue=job.origin)

    def _push(self, job: HpcJob, at_front: bool) -> None:
        queue = self._queues.get(job.origin)
        if queue is None:
            queue = HpcQueue(job.origin, connection=self.connection, job_class=self._job_class)
            self._queues[job.origin] = queue
        try:
            # Unique: when redis-py repeats a command whose reply was lost, the job is not queued twice.
            queue.enqueue_job(job, at_front=at_front, unique=True)
        except DuplicateJobError:
            there = self.connection.hget(job.key, SIGNATURE) or b""
            if there != job.to_dict()[SIGNATURE].encode():
                raise RefusedError(
                    f"job id {job.id!r} is taken by another job", hint="leave job_id out, or choose a new one"
                ) from None

    def _check(self, queue: str | None, retries: int | None, job_id: str | None) -> None:
        if queue is not None and queue not in self.config.short.queues:
            raise UsageError(
                f"queue={one_line(str(queue))!r} is no queue of the short pool",
                hint=f"allowed: {', '.join(self.config.short.queues)}",
            )
        if retries is not None and (not isinstance(retries, int) or not 0 <= retries <= 100):
            raise UsageError(f"retries={retries!r} is wrong", hint="a whole number from 0 to 100")
        if job_id is not None and not _JOB_ID.fullmatch(job_id):
            raise UsageError(
                f"job_id={one_line(job_id)!r} is wrong", hint="letters, digits, _ and -, at most 64"
            )


class ShortJob:
    """One short job: ``.state``, ``.wait()``, ``.result()``, ``.cancel()``."""

    def __init__(
        self, config: Config, connection: Redis, job_id: str, *, state: str = "", queue: str = ""
    ) -> None:
        self.id = job_id
        self.state = state  #: as of the last refresh: rq's word, such as queued, started, finished, failed
        self._queue = queue
        self._config = config
        self._connection = connection

    def __repr__(self) -> str:
        return f"<ShortJob {self.id} {self.state}>"

    def refresh(self) -> ShortJob:
        """Read ``state`` again; returns itself. Raises NotFoundError, RedisUnavailableError."""
        if not _JOB_ID.fullmatch(self.id):
            raise NotFoundError(f"{one_line(self.id)!r} is no job id", hint="`hpcpools jobs` lists them")
        with told():
            status, origin = self._connection.hmget(f"rq:job:{self.id}", ["status", "origin"])
        if status is None:
            raise NotFoundError(
                f"there is no job {self.id}", hint="it never existed, or its result was kept long enough"
            )
        self.state, self._queue = one_line(_text(status)), _text(origin)
        return self

    def wait(self, timeout: float | None = None) -> str:
        """Wait for the end; the state, one of finished, failed, stopped, canceled.

        ``timeout`` in seconds, None for ever. Raises WaitTimeoutError, NotFoundError, RedisUnavailableError.
        """
        give_up = None if timeout is None else time.monotonic() + timeout
        stream = f"rq:results:{self.id}"
        while True:
            with told():
                newest: Any = self._connection.xrevrange(stream, count=1)
            if self.refresh().state in ENDED:
                return self.state
            left = _LOOK if give_up is None else min(_LOOK, give_up - time.monotonic())
            if left <= 0:
                raise WaitTimeoutError(
                    f"job {self.id} is still {self.state}", hint=f"`hpcpools wait {self.id}` goes on waiting"
                )
            with told():
                seen = newest[0][0] if newest else "0-0"
                self._connection.xread({stream: seen}, count=1, block=max(1, int(left * 1000)))

    def result(self, timeout: float | None = None) -> Any:
        """Wait, then what the task returned.

        Raises RunFailedError if it did not succeed, WaitTimeoutError, NotFoundError, RedisUnavailableError.
        """
        if self.wait(timeout) != "finished":
            raise RunFailedError(
                f"job {self.id} {self.state}: {self.reason()}",
                hint=f"`hpcpools show {self.id}` has all of it",
            )
        with told():
            latest = latest_result(self._connection, self.id)
        return latest.return_value if latest else None

    def reason(self) -> str:
        """Why it did not succeed, one line; empty if nothing is recorded."""
        with told():
            latest = latest_result(self._connection, self.id)
        return last_line(latest.exc_string or "") if latest else ""

    def cancel(self) -> None:
        """Take it out of its queue, or kill it if it runs; a job that ended stays as it is.

        Raises NotFoundError, RedisUnavailableError.
        """
        give_up = time.monotonic() + _STOP
        remember = self._config.short.failure_ttl
        while self.refresh().state not in ENDED and time.monotonic() < give_up:
            with told():
                if Scripts(self._connection).withdraw(self._queue, self.id, remember):
                    self.state = "canceled"
                    return
                worker = _text(self._connection.hget(f"rq:job:{self.id}", "worker_name"))
                if worker:
                    send_command(self._connection, worker, "stop-job", job_id=self.id)
            with contextlib.suppress(WaitTimeoutError):
                self.wait(1.0)


def latest_result(connection: Redis, job_id: str) -> Result | None:
    """The newest outcome of a job; None if there is none, or one that we did not write."""
    try:
        return Result.fetch_latest(HpcJob(job_id, connection=connection), serializer=Json)
    except (ValueError, TypeError, KeyError, zlib.error):
        return None


def last_line(trace: str) -> str:
    """The line of a traceback that names the error, for one line of a table."""
    lines = trace.strip().splitlines()
    frames = [number for number, line in enumerate(lines) if line.startswith("  ")]
    rest = lines[frames[-1] + 1 :] if frames and lines[0].startswith("Traceback") else lines
    return one_line((rest or lines or [""])[0], 500)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""
