"""One short job as RQ keeps it: JSON, signed, and resolved through the allow-list only.

Owns how a job is made, read and resolved; ``record`` judges it. Refuses, without raising while it is read,
any job that we did not sign as it stands: such a job fails alone, and nothing that it names is imported.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from rq.defaults import RQ_KEY_PREFIX
from rq.exceptions import DeserializationError
from rq.job import Dependency, Job, JobStatus, Retry
from rq.queue import Queue

from hpcpools.catalog import Catalog, Entry, destination
from hpcpools.config import Config
from hpcpools.declare import TaskDeclaration
from hpcpools.errors import ConfigError, RefusedError, UsageError
from hpcpools.redisdb import keys
from hpcpools.redisdb.outage import AWAY
from hpcpools.short import record, signing
from hpcpools.short.options import retry_waits
from hpcpools.textsafe import one_line

if TYPE_CHECKING:
    from redis import Redis
    from redis.client import Pipeline

MAX_BELLS = 256  # more pending rings than workers would wake nobody else

_COMPACT = json.JSONEncoder(separators=(",", ":"))


class Json:
    """The only serializer: arguments, results and meta are JSON, so reading them can run nothing."""

    @staticmethod
    def dumps(value: Any, /) -> bytes:
        """Compact JSON. Raises TypeError or ValueError for anything else."""
        return _COMPACT.encode(value).encode()

    @staticmethod
    def loads(data: bytes, /) -> Any:
        """The value of JSON bytes."""
        return json.loads(data)


class HpcJob(Job):
    """An RQ job bound to one pool; make the class with :func:`bind`.

    ``refusal`` is empty, or says why this job must not run; reading such a job never raises.
    """

    config: ClassVar[Config]
    catalog: ClassVar[Catalog]
    pool_key: ClassVar[bytes] = b""
    _unread: Mapping[bytes, bytes]  # of a claimed job, until somebody asks for more than it takes to run it

    def __init__(
        self, id: str | None = None, connection: Redis | None = None, serializer: object = None
    ) -> None:
        super().__init__(id, connection=connection)
        self.serializer = Json  # rq would check anew, for 12 us, that it has what a serializer needs
        self.refusal = ""
        self._signed_for = ""  # the queue that a genuine record names

    @classmethod
    def of(
        cls,
        entry: Entry,
        arguments: dict[str, Any],
        *,
        connection: Redis,
        job_id: str,
        queue: str | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        retry_intervals: Sequence[int] | None = None,
        result_ttl: float | None = None,
        failure_ttl: float | None = None,
        depends_on: Sequence[str] = (),
        allow_failure: bool = False,
        meta: Mapping[str, Any] | None = None,
    ) -> HpcJob:
        """A new job, not yet saved; what is None comes from the declaration, then from the config.

        Lengths of time in seconds. Raises UsageError if the arguments are too large.
        """
        declared, short = entry.declaration, cls.config.short
        assert isinstance(declared, TaskDeclaration)  # noqa: S101  (Catalog.short returns only these)
        waits = retry_waits(retries, retry_intervals, declared, short.retries)
        job = cls.create(
            entry.name.replace(":", "."),
            kwargs=arguments,
            connection=connection,
            id=job_id,
            origin=destination(cls.config, entry, queue),
            timeout=math.ceil(_first(timeout, declared.timeout, short.timeout)),
            result_ttl=math.ceil(_first(result_ttl, declared.result_ttl, short.result_ttl)),
            failure_ttl=math.ceil(_first(failure_ttl, short.failure_ttl)),
            retry=Retry(max=len(waits), interval=waits) if waits else None,
            depends_on=Dependency(depends_on, allow_failure=allow_failure) if depends_on else None,
            meta=dict(meta) if meta else None,
        )
        assert isinstance(job, HpcJob)  # noqa: S101  (rq's annotation says Job)
        job.description = one_line(job.description or "", 500)
        if len(job.data) > record.MAX_PAYLOAD:
            raise UsageError(
                f"{entry.name}: its arguments are {len(job.data)} bytes of JSON, "
                f"the limit is {record.MAX_PAYLOAD}",
                hint="write large data to a file and pass its path",
            )
        return job

    @classmethod
    def load(cls, job_id: str, connection: Redis) -> HpcJob:
        """The job as it is in Redis. Raises rq's NoSuchJobError, and ValueError for what is no id."""
        job = cls(job_id, connection=connection)
        job.refresh()  # type: ignore[no-untyped-call]
        return job

    @classmethod
    def claimed(cls, job_id: str, fields: Mapping[bytes, bytes], connection: Redis, queue: str) -> HpcJob:
        """The job of a claim from ``queue``, ready to run or refused.

        It is judged now, like any other; what rq reads besides (dates, mostly) waits until somebody asks.
        """
        job = cls.__new__(cls)
        job._id, job.connection, job._unread = job_id, connection, fields
        known = record.named(fields)
        job.refusal, data = record.judge(cls.pool_key, job_id, known)
        if job.refusal:
            job._read()
        else:
            job.origin, job._signed_for = record.text(known["origin"]), record.text(known["origin"])
            job.timeout, job.result_ttl = (int(known.get(name) or 0) for name in ("timeout", "result_ttl"))
            job._decode(data)
        return job.came_from(queue)

    if not TYPE_CHECKING:  # or every misspelt attribute would be right

        def __getattr__(self, name: str) -> Any:
            if "_unread" not in self.__dict__:
                raise AttributeError(name)
            self._read()
            return getattr(self, name)

    def _read(self) -> None:
        """Everything of a claimed job, as rq has it, without what was set since the claim."""
        fields, since = self.__dict__.pop("_unread"), dict(self.__dict__)
        since.pop("_unread", None)
        self.__init__(self._id, self.connection)  # type: ignore[misc]
        self.restore(fields)
        self.__dict__.update(since)

    @property
    def task(self) -> str:
        """``package.module:function``; empty if the job is refused."""
        return "" if self.refusal else ":".join((self.func_name or "").rsplit(".", 1))

    def entry(self) -> Entry:
        """What to run. Raises RefusedError if the job is forged or its task is not on the allow-list."""
        if self.refusal:
            raise RefusedError(f"refused: {self.refusal}", hint="only `hpcpools enqueue` makes valid jobs")
        return self.catalog.short(self.task)

    @property
    def func(self) -> Callable[..., Any]:
        """The declared function; never imported by a name that came from Redis."""
        return self.entry().function

    # No job of ours has callbacks; without these three, rq would import names it finds in the hash.
    @property
    def success_callback(self) -> None:
        """None."""

    @property
    def failure_callback(self) -> None:
        """None."""

    @property
    def stopped_callback(self) -> None:
        """None."""

    def to_dict(self, include_meta: bool = True, include_result: bool = True) -> dict[str, Any]:
        """What ``save`` writes: all of it with a fresh signature, or for a refused job only its life."""
        fields: dict[str, Any] = super().to_dict(include_meta=include_meta, include_result=include_result)
        if self.refusal:
            return {name: value for name, value in fields.items() if name in record.LIFE}
        if self._signed_for not in ("", self.origin):  # rq would put any id of its registries anywhere
            raise RefusedError(
                f"job {self.id} was signed for queue {self._signed_for}, not {one_line(self.origin)}",
                hint="enqueue it to the queue that it shall run on",
            )
        if self.instance or self.args or record.foreign(fields):
            raise RefusedError(
                f"job {self.id} uses methods, positional arguments, callbacks, webhooks, groups, repeats or "
                "rate limits",
                hint="hpcpools runs plain functions with named arguments",
            )
        fields[record.SIGNATURE] = record.sign(self.pool_key, self.id, fields, self.data)
        return fields

    def restore(self, raw_data: Mapping[Any, Any]) -> None:
        """Read the hash; a job that is not ours as it stands gets a ``refusal`` and nothing else."""
        fields = record.named(raw_data)
        # Results live in their own stream; rq would decompress these two without a limit.
        fields.pop("result", None)
        fields.pop("exc_info", None)
        self.refusal, _ = record.judge(self.pool_key, self.id, fields)
        if not self.refusal:
            try:
                super().restore(fields)
                self._signed_for = self.origin
            except Exception as error:
                self.refusal = f"its record in Redis is damaged ({type(error).__name__})"
        if self.refusal:
            super().restore({"data": b"", "status": _status(fields)})
            self.origin = record.text(fields.get("origin"))
            self.failure_ttl = math.ceil(self.config.short.failure_ttl)
        self.repeats_left = None
        self.retries_left = min(self.retries_left or 0, len(self.retry_intervals or ())) or None

    def came_from(self, queue: str) -> HpcJob:
        """Itself, refused if it was taken from another queue than the signed one; it ends in ``queue``."""
        if not self.refusal and self.origin != queue:
            self.refusal = f"it was enqueued to {one_line(self.origin)} and moved to {queue}"
        self.origin = queue
        return self

    def _deserialize_data(self) -> None:
        if self.refusal:
            raise DeserializationError(self.refusal)
        self._decode(self.data)

    def _decode(self, data: bytes) -> None:
        try:
            self._func_name, _, _, self._kwargs = Json.loads(data)
        except (ValueError, TypeError, RecursionError) as error:
            raise DeserializationError(str(error)) from error
        self._instance, self._args = None, ()


class HpcQueue(Queue):
    """An RQ queue that rings a bell at each push, so that an idle worker need not ask all the time."""

    job_class = HpcJob

    def __init__(self, name: str = "default", connection: Redis | None = None, **options: Any) -> None:
        super().__init__(name, connection=connection, **{**options, "serializer": Json})

    @property
    def bell(self) -> str:
        """The key of the list that idle workers block on."""
        return bell_key(self.name)

    def push_job_id(self, job_id: str, pipeline: Pipeline | None = None, at_front: bool = False) -> None:
        """Push an id and ring."""
        super().push_job_id(job_id, pipeline=pipeline, at_front=at_front)
        self.ring(pipeline)

    def _enqueue_async_job(
        self, job: Job, pipeline: Pipeline | None = None, at_front: bool = False, unique: bool = False
    ) -> Job:
        super()._enqueue_async_job(job, pipeline=pipeline, at_front=at_front, unique=unique)
        if unique:  # rq's script pushed the id itself; the job is accepted, whatever the bell does
            with contextlib.suppress(*AWAY):
                self.ring()
        return job

    def ring(self, pipeline: Pipeline | None = None) -> None:
        """Wake one idle worker, if there is one."""
        pipe = self.connection.pipeline(transaction=False) if pipeline is None else pipeline
        pipe.rpush(self.bell, 1)
        pipe.ltrim(self.bell, 0, MAX_BELLS - 1)
        if pipeline is None:
            pipe.execute()


def bind(config: Config, catalog: Catalog) -> type[HpcJob]:
    """The job class of one pool, for rq's ``job_class``. Raises PermissionsError, ConfigError."""
    if RQ_KEY_PREFIX != "rq":
        raise ConfigError(
            f"RQ_KEY_PREFIX={one_line(RQ_KEY_PREFIX)!r} is set, but hpcpools and rq-scheduler keep to 'rq'",
            hint="unset it; to keep two deployments apart give each its own Redis",
        )
    members = {"config": config, "catalog": catalog, "pool_key": signing.pool_key(config)}
    return type("HpcJob", (HpcJob,), members)


def bell_key(queue: str) -> str:
    """The key of a queue's bell."""
    return keys.key("bell", queue)


def _status(fields: Mapping[str, Any]) -> bytes:
    status = record.text(fields.get("status"))
    return status.encode() if status in {each.value for each in JobStatus} else b"queued"


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)
