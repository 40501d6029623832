"""Giving a job to the short pool, and the handle of a job.

Owns every check before a job is written, and waiting for its end. Refuses what is not declared, does not
fit the function, or is not plain JSON.
"""

from __future__ import annotations

import contextlib
import time
import uuid
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rq.command import send_command
from rq.exceptions import DuplicateJobError
from rq.results import Result

from hpcpools import catalog
from hpcpools.config import Config
from hpcpools.declare import intervals
from hpcpools.errors import NotFoundError, RefusedError, RunFailedError, WaitTimeoutError
from hpcpools.redisdb.connect import connect
from hpcpools.redisdb.outage import told
from hpcpools.short import bulk
from hpcpools.short.dependencies import defer
from hpcpools.short.job import HpcJob, HpcQueue, Json, bind
from hpcpools.short.options import JOB_ID, JobOptions, whole_seconds
from hpcpools.short.record import SIGNATURE
from hpcpools.short.scripts import Scripts
from hpcpools.textsafe import json_arguments, one_line

if TYPE_CHECKING:
    from redis import Redis

ENDED = frozenset({"finished", "failed", "stopped", "canceled"})
_LOOK = 1.0  # seconds: a job can also end without a result, so a waiting process looks this often
_STOP = 10.0  # seconds to wait for a running job to be stopped; the lane and its node look once a second each


def fetch(config: Config, job_id: str) -> ShortJob:
    """The handle of an existing job. Raises NotFoundError, RedisUnavailableError."""
    return ShortJob(config, connect(config), job_id).refresh()


def check_arguments(entry: catalog.Entry, arguments: dict[str, Any]) -> None:
    """Raise UsageError unless ``arguments`` fit the task and are plain JSON."""
    catalog.check_arguments(entry, arguments)
    json_arguments(arguments)


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
    def known(cls, config: Config) -> Client | None:
        """The last client, if it is of this config."""
        return cls._known if cls._known is not None and cls._known.config == config else None

    @classmethod
    def of(cls, config: Config) -> Client:
        """The client of this config; the last one is kept."""
        cls._known = cls.known(config) or cls(config)
        return cls._known

    def enqueue(
        self,
        task: str | Callable[..., Any],
        arguments: dict[str, Any],
        options: JobOptions | None = None,
        **named: Any,
    ) -> ShortJob:
        """As :func:`hpcpools.enqueue`; the options as one object, or by name."""
        said = options or JobOptions(**named)
        said.check(self.config)
        entry = self.catalog.short(
            task if isinstance(task, str) else f"{task.__module__}:{task.__qualname__}"
        )
        check_arguments(entry, arguments)
        return self.send(entry, arguments, said)

    def send(self, entry: catalog.Entry, arguments: dict[str, Any], said: JobOptions) -> ShortJob:
        """Enqueue what has been checked."""
        job = self._job(entry, arguments, said)
        with told():
            self._push(job, said)
        return self._handle(job)

    def send_many(
        self, entry: catalog.Entry, many: Sequence[dict[str, Any]], said: JobOptions
    ) -> list[ShortJob]:
        """Enqueue a job for each of ``many`` arguments, which have been checked, in one round trip."""
        jobs = [self._job(entry, arguments, said) for arguments in many]
        if jobs:
            with told():
                bulk.push(self._queue(jobs[0].origin), jobs, at_front=said.at_front)
        return [self._handle(job) for job in jobs]

    def _job(self, entry: catalog.Entry, arguments: dict[str, Any], said: JobOptions) -> HpcJob:
        """A job of this call, not yet written."""
        return self._job_class.of(
            entry,
            arguments,
            connection=self.connection,
            job_id=said.job_id or str(uuid.uuid4()),
            queue=said.queue,
            timeout=whole_seconds(said.timeout),
            retries=said.retries,
            retry_intervals=intervals(said.retry_intervals),
            result_ttl=whole_seconds(said.result_ttl),
            failure_ttl=whole_seconds(said.failure_ttl),
            depends_on=said.dependencies(),
            allow_failure=said.allow_failure,
            meta=said.meta,
        )

    def _handle(self, job: HpcJob) -> ShortJob:
        return ShortJob(
            self.config, self.connection, job.id, state=job.get_status(refresh=False).value, queue=job.origin
        )

    def _push(self, job: HpcJob, said: JobOptions) -> None:
        queue = self._queue(job.origin)
        due = said.due()
        try:
            # Unique: when redis-py repeats a command whose reply was lost, the job is not queued twice.
            if said.depends_on:
                defer(queue, job, at_front=said.at_front)
            elif due:
                job.enqueue_at_front = said.at_front
                queue.schedule_job(job, due, unique=True)
            else:
                bulk.push(queue, [job], at_front=said.at_front)
        except DuplicateJobError:
            there, created = self.connection.hmget(job.key, SIGNATURE, "created_at")
            ours = job.to_dict()
            if created == ours["created_at"].encode():
                return  # this very call
            if said.unique or there != ours[SIGNATURE].encode():
                raise RefusedError(
                    f"job id {job.id!r} is taken" + ("" if said.unique else " by another job"),
                    hint=f"`hpcpools show {job.id}` shows it; choose another id",
                ) from None

    def _queue(self, name: str) -> HpcQueue:
        if name not in self._queues:
            self._queues[name] = HpcQueue(name, connection=self.connection, job_class=self._job_class)
        return self._queues[name]


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
        if not JOB_ID.fullmatch(self.id):
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

        Waits up to ten seconds for the end; if nobody heeds the word, ``state`` is still ``started``.
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
