"""One short job as RQ keeps it: JSON, signed, and resolved through the allow-list only.

Owns what is signed and how a job is refused. Refuses, without raising while it is read, any job that we did
not sign as it stands: such a job fails alone, with the reason, and nothing that it names is imported.
"""

from __future__ import annotations

import contextlib
import json
import math
import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from rq.defaults import RQ_KEY_PREFIX
from rq.exceptions import DeserializationError
from rq.job import Job, JobStatus, Retry
from rq.queue import Queue

from hpcpools.catalog import Catalog, Entry
from hpcpools.config import Config
from hpcpools.declare import TaskDeclaration
from hpcpools.errors import ConfigError, RefusedError, UsageError
from hpcpools.redisdb import keys
from hpcpools.redisdb.outage import AWAY
from hpcpools.short import signing
from hpcpools.textsafe import one_line

if TYPE_CHECKING:
    from redis import Redis
    from redis.client import Pipeline

MAX_PAYLOAD = 64 * 1024  # bytes of JSON: function name and arguments
RETRY_DELAYS = (0, 10, 60, 300)  # seconds before each next try; the last one repeats
SIGNATURE = "hpcpools_signature"
MAX_BELLS = 256  # more pending rings than workers would wake nobody else

# Everything in the job's hash that can change what runs, for how long, or what follows it. What is left out
# are facts of its life (status, times, worker, meta, retries_left), which workers and rq's tools rewrite.
SIGNED = (
    *("origin", "data", "description", "timeout", "ttl", "result_ttl", "failure_ttl"),
    *("retry_intervals", "enqueue_at_front_on_retry", "repeat_intervals"),
    *("dependency_id", "dependency_ids", "allow_dependency_failures", "group_id"),
    *("rate_limit_key", "rate_limit_concurrency", "webhooks"),
    *("success_callback_name", "failure_callback_name", "stopped_callback_name"),
    *("success_callback_timeout", "failure_callback_timeout", "stopped_callback_timeout"),
)
_LIFE = {"status", "started_at", "ended_at", "enqueued_at", "last_heartbeat", "worker_name"}


class Json:
    """The only serializer: arguments, results and meta are JSON, so reading them can run nothing."""

    @staticmethod
    def dumps(value: Any, /) -> bytes:
        """Compact JSON. Raises TypeError or ValueError for anything else."""
        return json.dumps(value, separators=(",", ":")).encode()

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

    def __init__(
        self, id: str | None = None, connection: Redis | None = None, serializer: object = None
    ) -> None:
        super().__init__(id, connection=connection, serializer=Json)
        self.refusal = ""

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
    ) -> HpcJob:
        """A new job, not yet saved; what is None comes from the declaration, then from the config.

        Raises UsageError if the arguments are too large.
        """
        declared, short = entry.declaration, cls.config.short
        assert isinstance(declared, TaskDeclaration)  # noqa: S101  (Catalog.short returns only these)
        tries = _first(retries, declared.retries, short.retries)
        job = cls.create(
            entry.name.replace(":", "."),
            kwargs=arguments,
            connection=connection,
            id=job_id,
            origin=queue or entry.queue,
            timeout=math.ceil(_first(timeout, declared.timeout, short.timeout)),
            result_ttl=math.ceil(_first(declared.result_ttl, short.result_ttl)),
            failure_ttl=math.ceil(short.failure_ttl),
            retry=Retry(max=tries, interval=_intervals(tries)) if tries else None,
        )
        assert isinstance(job, HpcJob)  # noqa: S101  (rq's annotation says Job)
        job.description = one_line(job.description or "", 500)
        if len(job.data) > MAX_PAYLOAD:
            raise UsageError(
                f"{entry.name}: its arguments are {len(job.data)} bytes of JSON, the limit is {MAX_PAYLOAD}",
                hint="write large data to a file and pass its path",
            )
        return job

    @classmethod
    def load(cls, job_id: str, connection: Redis) -> HpcJob:
        """The job as it is in Redis. Raises rq's NoSuchJobError, and ValueError for what is no id."""
        job = cls(job_id, connection=connection)
        job.refresh()  # type: ignore[no-untyped-call]
        return job

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
            return {name: value for name, value in fields.items() if name in _LIFE}
        if self.instance or self.args or _foreign(fields):
            raise RefusedError(
                f"job {self.id} uses methods, positional arguments, callbacks, webhooks, groups, repeats or "
                "rate limits",
                hint="hpcpools runs plain functions with named arguments",
            )
        fields[SIGNATURE] = signing.sign(self.pool_key, _signed(self.id, fields, self.data))
        return fields

    def restore(self, raw_data: Mapping[Any, Any]) -> None:
        """Read the hash; a job that is not ours as it stands gets a ``refusal`` and nothing else."""
        fields = {
            name.decode("utf-8", "replace") if isinstance(name, bytes) else name: value
            for name, value in raw_data.items()
        }
        # Results live in their own stream; rq would decompress these two without a limit.
        fields.pop("result", None)
        fields.pop("exc_info", None)
        self.refusal = self._judge(fields)
        if not self.refusal:
            try:
                super().restore(fields)
            except Exception as error:  # unsigned facts of its life can hold anything
                self.refusal = f"its record in Redis is damaged ({type(error).__name__})"
        if self.refusal:
            super().restore({"data": b"", "status": _status(fields)})
            self.origin = _text(fields.get("origin"))
            self.failure_ttl = math.ceil(self.config.short.failure_ttl)
        self.repeats_left = None
        self.retries_left = min(self.retries_left or 0, len(self.retry_intervals or ())) or None

    def came_from(self, queue: str) -> HpcJob:
        """Itself, refused if it was taken from another queue than the signed one; it ends in ``queue``."""
        if not self.refusal and self.origin != queue:
            self.refusal = f"it was enqueued to {one_line(self.origin)} and moved to {queue}"
        self.origin = queue
        return self

    def _judge(self, fields: Mapping[str, Any]) -> str:
        signature = fields.get(SIGNATURE)
        if not signature:
            return "it is not signed, so it was not enqueued through hpcpools"
        try:
            data = inflate(fields.get("data") or b"")
            genuine = signing.verify(self.pool_key, _signed(self.id, fields, data), signature)
        except (zlib.error, ValueError, TypeError):
            genuine = False
        if not genuine:
            return "its signature does not match: it is forged, or was changed after it was enqueued"
        return ""

    def _deserialize_data(self) -> None:
        if self.refusal:
            raise DeserializationError(self.refusal)
        try:
            self._func_name, _, _, self._kwargs = Json.loads(self.data)
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


def _signed(job_id: str, fields: Mapping[str, Any], data: bytes) -> dict[str, bytes]:
    """The signed fields as Redis holds them; a missing one is like an empty one."""
    values = {name: fields.get(name, b"") for name in SIGNED}
    values |= {"id": job_id, "data": data}
    return {name: v if isinstance(v, bytes) else str(v).encode() for name, v in values.items()}


def _foreign(fields: Mapping[str, Any]) -> bool:
    names = ("success_callback_name", "failure_callback_name", "stopped_callback_name", "webhooks")
    return any(fields.get(name) for name in (*names, "group_id", "repeats_left", "rate_limit_key"))


def inflate(data: bytes) -> bytes:
    """Decompressed, but no more than we would ever have stored (a forged job may be a zip bomb)."""
    inflater = zlib.decompressobj()
    text = inflater.decompress(data, MAX_PAYLOAD + 1)
    if not inflater.eof:
        raise ValueError("too large")
    return text


def _status(fields: Mapping[str, Any]) -> bytes:
    status = _text(fields.get("status"))
    return status.encode() if status in {each.value for each in JobStatus} else b"queued"


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


def _intervals(tries: int) -> list[int]:
    return [RETRY_DELAYS[min(number, len(RETRY_DELAYS) - 1)] for number in range(tries)]


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)
