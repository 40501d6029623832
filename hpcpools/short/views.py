"""What queues, workers and jobs look like now, read in a few round trips and never through rq.

Owns the facts behind ``status``, ``queues``, ``jobs`` and ``show``. Refuses to write, to import or to
unpickle anything: rq's own readers do (they clean registries, and run callbacks, while they count).
"""

from __future__ import annotations

import base64
import json
import time
import zlib
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from hpcpools.config import Config
from hpcpools.errors import NotFoundError
from hpcpools.redisdb.resp import reader
from hpcpools.textsafe import one_line, printable

if TYPE_CHECKING:
    from redis import Redis

# state → the registry that lists such jobs (stopped ones are among the failed)
REGISTRIES = {
    "started": "wip",
    "finished": "finished",
    "failed": "failed",
    "stopped": "failed",
    "scheduled": "scheduled",
    "deferred": "deferred",
    "canceled": "canceled",
}
_FACTS = (
    "status",
    "origin",
    "description",
    "enqueued_at",
    "started_at",
    "ended_at",
    "worker_name",
    "created_at",
)


class QueueView(Struct, frozen=True):
    """One queue; ``oldest`` is how long, in seconds, the job at its front has waited."""

    name: str
    waiting: int
    oldest: float | None
    running: int
    finished: int
    failed: int
    scheduled: int
    deferred: int


class WorkerView(Struct, frozen=True):
    """One worker; ages in seconds."""

    name: str
    host: str
    pid: int
    state: str
    job: str
    queues: tuple[str, ...]
    heartbeat_age: float | None
    age: float | None
    finished: int
    failed: int


class JobView(Struct, frozen=True):
    """One job in a list; times are seconds since the epoch. ``call`` is for display: task and arguments."""

    id: str
    call: str
    queue: str
    state: str
    worker: str
    enqueued: float | None
    started: float | None
    ended: float | None


class JobDetail(Struct, frozen=True):
    """All of one job. ``reason`` in one line, ``trace`` in full; ``result``, ``meta``: any JSON value."""

    job: JobView
    task: str
    arguments: dict[str, Any]
    timeout: float | None
    retries_left: int
    deaths: int
    result: Any
    reason: str
    trace: str
    meta: Any = None


def queues(config: Config) -> list[QueueView]:
    """Every queue of the pool, in order of priority. Raises RedisUnavailableError."""
    names = config.queues
    kinds = ("wip", "finished", "failed", "scheduled", "deferred")
    with reader(config) as connection, connection.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.lindex(f"rq:queue:{name}", 0)
            pipe.llen(f"rq:queue:{name}")
            for kind in kinds:
                pipe.zcard(f"rq:{kind}:{name}")
        answers = pipe.execute()
        step = 2 + len(kinds)
        for first in answers[::step]:
            pipe.hget(f"rq:job:{_text(first)}", "enqueued_at")
        enqueued = [_seconds(value) for value in pipe.execute(raise_on_error=False)]
    now = time.time()
    return [
        QueueView(
            name,
            answers[at + 1],
            None if since is None or answers[at] is None else max(0.0, now - since),
            *answers[at + 2 : at + step],
        )
        for at, name, since in zip(range(0, len(answers), step), names, enqueued, strict=True)
    ]


def workers(config: Config) -> list[WorkerView]:
    """Every registered worker, by name. Raises RedisUnavailableError."""
    with reader(config) as connection:
        names = sorted(_text(key).removeprefix("rq:worker:") for key in connection.smembers("rq:workers"))
        with connection.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hgetall(f"rq:worker:{name}")
                pipe.srandmember(f"rq:worker:{name}:executions")
            pipe.exists("rq:suspended")
            *answers, suspended = pipe.execute(raise_on_error=False)
    now = time.time()
    found = [
        _worker(name, facts, job, now)
        for name, facts, job in zip(names, answers[::2], answers[1::2], strict=True)
        if isinstance(facts, dict) and facts
    ]
    return [replace(each, state="suspended") if suspended and not each.job else each for each in found]


def jobs(
    config: Config, *, queue: str | None = None, state: str | None = None, limit: int = 50
) -> list[JobView]:
    """Jobs, newest first, of one queue or all, in one state or any. Raises RedisUnavailableError."""
    names = [queue] if queue else list(config.queues)
    kinds = sorted(
        {REGISTRIES[state]} if state in REGISTRIES else set() if state else set(REGISTRIES.values())
    )
    with reader(config) as connection:
        with connection.pipeline(transaction=False) as pipe:
            for name in names:
                if state in (None, "queued"):
                    pipe.lrange(f"rq:queue:{name}", -limit, -1)
                for kind in kinds:
                    pipe.zrevrange(f"rq:{kind}:{name}", 0, limit - 1)
            members = [_text(member) for answer in pipe.execute() for member in answer]
        views = _read(connection, list(dict.fromkeys(member.partition(":")[0] for member in members)))
    wanted = [view for view in views if (state is None or view.state == state) and view.queue in names]
    return sorted(wanted, key=lambda view: view.enqueued or 0.0, reverse=True)[:limit]


def show(config: Config, job_id: str) -> JobDetail:
    """All of one job. Raises NotFoundError, RedisUnavailableError."""
    from hpcpools.redisdb.connect import connect
    from hpcpools.redisdb.outage import told
    from hpcpools.short.enqueue import last_line, latest_result
    from hpcpools.short.scripts import DEATHS

    with told(), connect(config) as connection:
        facts = {_text(name): value for name, value in connection.hgetall(f"rq:job:{job_id}").items()}
        if not facts:
            raise NotFoundError(f"there is no job {one_line(job_id)}", hint="`hpcpools jobs` lists them")
        latest = latest_result(connection, job_id)
    task, arguments = _call(facts.get("data") or b"")
    trace = printable((latest.exc_string if latest else None) or "")
    return JobDetail(
        _job(job_id, [facts.get(name) for name in _FACTS]),
        task,
        arguments,
        _number(facts.get("timeout")),
        int(_number(facts.get("retries_left")) or 0),
        int(_number(facts.get(DEATHS)) or 0),
        latest.return_value if latest else None,
        last_line(trace),
        trace,
        _value(facts.get("meta")),
    )


def traces(config: Config, ids: list[str]) -> list[str]:
    """The traceback or reason of each job's newest failure, "" where none is kept. Raises
    RedisUnavailableError."""
    from hpcpools.redisdb.connect import connect
    from hpcpools.redisdb.outage import told

    with told(), connect(config) as connection, connection.pipeline(transaction=False) as pipe:
        for job_id in ids:
            pipe.xrevrange(f"rq:results:{job_id}", count=1)
        answers = pipe.execute(raise_on_error=False)
    return [_trace(answer) for answer in answers]


def _trace(answer: object) -> str:
    """As rq keeps it: compressed, in base64, in the stream's newest entry."""
    from hpcpools.short.record import inflate

    try:
        facts: dict[bytes, bytes] = answer[0][1]  # type: ignore[index]
        return printable(inflate(base64.b64decode(facts[b"exc_string"])).decode("utf-8", "replace"))
    except (ValueError, TypeError, LookupError, zlib.error):
        return ""


def _read(connection: Redis, ids: list[str]) -> list[JobView]:
    with connection.pipeline(transaction=False) as pipe:
        for job_id in ids:
            pipe.hmget(f"rq:job:{job_id}", _FACTS)
        answers = pipe.execute(raise_on_error=False)
    return [
        _job(job_id, facts)
        for job_id, facts in zip(ids, answers, strict=True)
        if isinstance(facts, list) and any(facts)
    ]


def _job(job_id: str, facts: list[bytes | None]) -> JobView:
    status, origin, description, enqueued, started, ended, worker, created = facts
    return JobView(
        one_line(job_id),
        one_line(_text(description)),
        one_line(_text(origin)),
        one_line(_text(status)),
        one_line(_text(worker)),
        _seconds(enqueued) or _seconds(created),
        _seconds(started),
        _seconds(ended),
    )


def _worker(name: str, facts: dict[bytes, bytes], job: object, now: float) -> WorkerView:
    beat, birth = _seconds(facts.get(b"last_heartbeat")), _seconds(facts.get(b"birth"))
    return WorkerView(
        one_line(name),
        one_line(_text(facts.get(b"hostname"))),
        int(_number(facts.get(b"pid")) or 0),
        one_line(_text(facts.get(b"state"))),
        one_line(_text(job).partition(":")[0]),
        tuple(one_line(part) for part in _text(facts.get(b"queues")).split(",") if part),
        None if beat is None else max(0.0, now - beat),
        None if birth is None else max(0.0, now - birth),
        int(_number(facts.get(b"successful_job_count")) or 0),
        int(_number(facts.get(b"failed_job_count")) or 0),
    )


def _call(data: bytes) -> tuple[str, dict[str, Any]]:
    """Task and arguments as the job claims them; not verified, for display only."""
    from hpcpools.short.record import inflate

    try:
        name, _, _, arguments = json.loads(inflate(data))
        return one_line(":".join(str(name).rsplit(".", 1))), dict(arguments)
    except (ValueError, TypeError, zlib.error, RecursionError):
        return "", {}


def _value(data: object) -> Any:
    """A JSON value that anybody may have written; None if it is not one."""
    try:
        return json.loads(_text(data))
    except (ValueError, RecursionError):
        return None


def _seconds(value: object) -> float | None:
    """rq's UTC time as seconds since the epoch."""
    try:
        moment = datetime.fromisoformat(_text(value).removesuffix("Z"))  # strptime: 1 ms for its import
    except ValueError:
        return None
    return moment.replace(tzinfo=timezone.utc).timestamp()


def _number(value: object) -> float | None:
    try:
        return float(_text(value))
    except ValueError:
        return None


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""
