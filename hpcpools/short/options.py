"""What a caller may say about one short job besides its arguments: one structure, checked in one place.

Owns every check of these values; knows neither Redis nor rq. Refuses what would only fail later, in a worker.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from hpcpools import durations
from hpcpools.config import Config
from hpcpools.declare import TaskDeclaration, intervals, retry_count
from hpcpools.errors import UsageError
from hpcpools.schema import LANE_QUEUE
from hpcpools.textsafe import json_arguments, one_line

JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
MAX_META = 64 * 1024  # bytes of JSON, as for the arguments
MAX_DEPENDENCIES = 1000
RETRY_DELAYS = (0, 10, 60, 300)  # seconds before each next try, if nobody says so; the last one repeats


class HasId(Protocol):
    """A handle of a job."""

    id: str


DependsOn = str | HasId | Sequence[str | HasId]


@dataclass(frozen=True)
class JobOptions:
    """The options of one job, as ``hpcpools.enqueue`` takes them; None: as declared, then as configured."""

    queue: str | None = None
    at_front: bool = False
    timeout: str | float | None = None
    retries: int | None = None
    retry_intervals: Sequence[str | float] | None = None
    result_ttl: str | float | None = None
    failure_ttl: str | float | None = None
    job_id: str | None = None
    unique: bool = False
    depends_on: DependsOn = ()
    allow_failure: bool = False
    delay: str | float | None = None
    at: str | datetime | None = None
    meta: Mapping[str, Any] | None = None

    def check(self, config: Config) -> None:
        """Raise UsageError, naming the option, unless all values are good and go together."""
        if self.queue is not None and self.queue not in (*config.short.queues, LANE_QUEUE):
            raise UsageError(
                f"queue={one_line(str(self.queue))!r} is no queue of the short pool",
                hint=f"allowed: {', '.join(config.short.queues)}",
            )
        retry_count(self.retries)
        for name in ("timeout", "result_ttl", "failure_ttl"):
            whole_seconds(getattr(self, name))
        intervals(self.retry_intervals)
        if self.job_id is not None and not JOB_ID.fullmatch(self.job_id):
            raise UsageError(
                f"job_id={one_line(str(self.job_id))!r} is wrong", hint="letters, digits, _ and -, at most 64"
            )
        if self.unique and self.job_id is None:
            raise UsageError("unique needs a job_id", hint="the id is what must not be there twice")
        if self.meta is not None and len(str(json_arguments({"meta": dict(self.meta)}))) > MAX_META:
            raise UsageError(f"meta is larger than {MAX_META} bytes", hint="keep large data in a file")
        due, dependencies = self.due(), self.dependencies()
        if due is not None and dependencies:
            raise UsageError("depends_on and a time do not go together", hint="give one of them")

    def dependencies(self) -> tuple[str, ...]:
        """The ids it waits for, each once. Raises UsageError."""
        given = self.depends_on
        several = [given] if isinstance(given, str) or not isinstance(given, Sequence) else given
        ids = list(dict.fromkeys(each if isinstance(each, str) else each.id for each in several))
        if wrong := next((each for each in ids if not JOB_ID.fullmatch(each)), None):
            raise UsageError(
                f"depends_on={one_line(wrong)!r} is no id of a short job", hint="`hpcpools jobs` lists them"
            )
        if run := next((each for each in ids if each.startswith(("hp-", "hs-", "hq-"))), None):
            raise UsageError(f"depends_on={run} is no short job", hint="a pipeline joins both pools")
        if len(ids) > MAX_DEPENDENCIES:
            raise UsageError(f"it depends on {len(ids)} jobs", hint=f"at most {MAX_DEPENDENCIES}")
        return tuple(ids)

    def due(self) -> datetime | None:
        """When it is put into its queue, in whole seconds, never early; None: at once. Raises UsageError."""
        if self.delay is None and self.at is None:
            return None
        if self.delay is not None and self.at is not None:
            raise UsageError("a delay and a time do not go together", hint="give one of them")
        if self.delay is not None:
            due = time.time() + durations.seconds(self.delay)
        else:
            due = _moment(self.at)
            if due <= time.time():
                raise UsageError(f"at={self.at} lies in the past", hint="leave it out to run at once")
        return datetime.fromtimestamp(math.ceil(due)).astimezone()


def whole_seconds(value: str | float | None) -> int | None:
    """A length of time, rounded up as rq keeps it. Raises UsageError."""
    return None if value is None else math.ceil(durations.seconds(value))


def retry_waits(
    retries: int | None, waits: Sequence[int] | None, declared: TaskDeclaration, default: int
) -> list[int]:
    """Seconds before each next try; empty: none. The call, then the declaration, then ``default`` decides."""
    if retries is None:
        retries = len(waits) if waits else declared.retries
    if retries is None:
        retries = len(declared.retry_intervals) if declared.retry_intervals else default
    waits = waits or declared.retry_intervals or RETRY_DELAYS
    return [waits[min(number, len(waits) - 1)] for number in range(retries)]


def _moment(at: str | datetime | None) -> float:
    """Seconds since the epoch; a time without an offset is local time."""
    try:
        moment = at if isinstance(at, datetime) else datetime.fromisoformat(str(at).replace("Z", "+00:00"))
        return moment.timestamp()
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"at={one_line(str(at))!r} is no time",
            hint="ISO 8601: 2027-01-31T06:00 in local time, or with an offset: 2027-01-31T06:00+00:00",
        ) from None
