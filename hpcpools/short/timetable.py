"""What is known of each schedule: one small hash in Redis, and the view of it for people.

Owns the hash ``hp:schedule:NAME`` and its reading. Refuses to guess: unreadable fields count as unknown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import asdict, astuple, replace

from hpcpools.config import Config
from hpcpools.redisdb import keys
from hpcpools.short import declared, lease, slots
from hpcpools.short.declared import Declared, Table
from hpcpools.textsafe import one_line

if TYPE_CHECKING:
    from redis import Redis

LATE_KEPT = 100  # latenesses of the newest firings
GAPS_KEPT = 10  # times in which slots were missed


class Gap(Struct, frozen=True):
    """Slots that passed while no scheduler was live: the first, the last, and the one fired for them all."""

    missed: int
    first: int
    last: int
    fired: int


class Record(Struct, frozen=True):
    """What the scheduler remembers of one schedule; times in seconds since the epoch, by Redis's clock."""

    timing: str = ""  # a record of another timing says nothing about this one's slots
    last_slot: int | None = None  # the newest slot handled: fired, or skipped
    fired_slot: int | None = None
    last_job: str = ""
    last_fired: float | None = None
    late: tuple[float, ...] = ()  # seconds from slot to firing, the newest last
    fired: int = 0
    missed: int = 0  # slots that passed while no scheduler was live
    gaps: tuple[Gap, ...] = ()  # when that was, the newest last
    skipped: int = 0  # slots not fired because the firing before still waited in its queue
    run_now: str = ""  # the last job that a person fired

    def to_hash(self) -> dict[Any, Any]:
        """The fields as Redis keeps them, unknown ones left out."""
        lists = {"late": list(self.late), "gaps": [[*astuple(gap)] for gap in self.gaps]}
        texts = {name: json.dumps(value, separators=(",", ":")) for name, value in lists.items() if value}
        return {k: v for k, v in asdict(self).items() if v is not None and k not in lists} | texts

    @staticmethod
    def from_hash(raw: Mapping[Any, Any]) -> Record:
        """The record in ``raw`` (what HGETALL gave); an unreadable one is as good as none."""
        text = {
            name.decode("ascii", "replace"): value.decode("utf-8", "replace") for name, value in raw.items()
        }
        try:
            return Record(
                timing=text.get("timing", ""),
                last_slot=_slot(text["last_slot"]) if "last_slot" in text else None,
                fired_slot=_slot(text["fired_slot"]) if "fired_slot" in text else None,
                last_job=text.get("last_job", ""),
                last_fired=_number(text["last_fired"]) if "last_fired" in text else None,
                late=tuple(map(_number, json.loads(text.get("late", "[]")))),
                fired=int(text.get("fired", 0)),
                missed=int(text.get("missed", 0)),
                gaps=tuple(_gap(*each) for each in json.loads(text.get("gaps", "[]"))),
                skipped=int(text.get("skipped", 0)),
                run_now=text.get("run_now", ""),
            )
        except (ValueError, TypeError, RecursionError):
            return Record()

    def after_firing(self, due: slots.Due, job_id: str, now: float) -> Record:
        """The record once ``due`` was fired as ``job_id`` at ``now``."""
        return replace(
            self.after_passing(due),
            fired_slot=due.slot,
            last_job=job_id,
            last_fired=now,
            late=(*self.late, round(now - due.slot, 6))[-LATE_KEPT:],
            fired=self.fired + 1,
        )

    def after_passing(self, due: slots.Due, *, skipped: int = 0) -> Record:
        """The record once ``due`` was handled without a firing."""
        gaps = self.gaps
        if due.missed_from is not None and due.missed_to is not None:
            gaps = (*gaps, Gap(due.missed, due.missed_from, due.missed_to, due.slot))[-GAPS_KEPT:]
        return replace(
            self,
            last_slot=due.slot,
            missed=self.missed + due.missed,
            gaps=gaps,
            skipped=self.skipped + skipped,
        )


def _number(text: str | float) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{number} is no time")
    return number


def _slot(text: str | int) -> int:
    slot = int(text)
    if not 0 <= slot < 2**33:
        raise ValueError(f"{slot} is no time of this age")
    return slot


def _gap(missed: int, first: int, last: int, fired: int) -> Gap:
    return Gap(int(missed), _slot(first), _slot(last), _slot(fired))


class ScheduleStatus(Struct, frozen=True):
    """One schedule as commands show it; times in seconds since the epoch, lengths in seconds."""

    name: str
    task: str
    timing: str  # "every 60s" or "cron */5 * * * * UTC"
    timezone: str
    queue: str
    state: str  # on, paused, off
    added: bool  # by command, not in the config
    paused: float | None  # since when
    last_slot: int | None  # the newest that was fired
    last_fired: float | None
    last_job: str
    last_state: str  # of that job, rq's word; "" if its record is gone
    next_due: float | None  # in the past if it is overdue, None if it is not on
    lateness: float | None  # of the newest firing ...
    late_p95: float | None  # ... and of the newest hundred
    late_max: float | None
    fired: int
    missed: int
    gaps: tuple[Gap, ...]
    skipped: int
    run_now: str  # the last job that a person fired
    holder: str  # host:pid of the live scheduler; "" if none is live
    holder_age: float | None  # seconds since it last said so


def record_key(name: str) -> str:
    """Hash: the record of one schedule."""
    return keys.key("schedule", name)


def records(connection: Redis, names: Sequence[str]) -> dict[str, Record]:
    """The record of each of ``names``, in one round trip."""
    with connection.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.hgetall(record_key(name))
        return {name: Record.from_hash(raw) for name, raw in zip(names, pipe.execute(), strict=True)}


def job_states(connection: Redis, ids: Sequence[str]) -> list[str]:
    """rq's word for the state of each job, in one round trip; "" for a job that is not there."""
    with connection.pipeline(transaction=False) as pipe:
        for job_id in ids:
            pipe.hget(f"rq:job:{job_id}", "status")
        answers = pipe.execute(raise_on_error=False)
    return [one_line(each.decode("utf-8", "replace")) if isinstance(each, bytes) else "" for each in answers]


def schedule_view(config: Config, connection: Redis, table: Table | None = None) -> list[ScheduleStatus]:
    """Every schedule of ``table`` (by default those that are not off), in its order.

    Works without a live scheduler, and says so. Raises ConfigError for a timing that has no slots.
    """
    entries = declared.read(config).entries if table is None else table.entries
    shown = [entry for entry in entries.values() if table is not None or entry.state != "off"]
    seconds, micros = connection.time()
    live = lease.holder(connection)
    known = records(connection, [entry.name for entry in shown])
    states = job_states(connection, [record.last_job for record in known.values()])
    now = seconds + micros / 1e6
    return [
        _status(config, entry, known[entry.name], state, live, now)
        for entry, state in zip(shown, states, strict=True)
    ]


def _status(
    config: Config, entry: Declared, record: Record, state: str, live: lease.Holder | None, now: float
) -> ScheduleStatus:
    timing = slots.timing(config, entry.name, entry.schedule, entry.file)
    last = record.last_slot if record.timing == str(timing) else None
    late = sorted(record.late)
    return ScheduleStatus(
        name=entry.name,
        task=entry.schedule.task,
        timing=str(timing),
        timezone=timing.zone,
        queue=entry.schedule.queue,
        state=entry.state,
        added=entry.added,
        paused=entry.paused,
        last_slot=record.fired_slot,
        last_fired=record.last_fired,
        last_job=one_line(record.last_job),
        last_state=state,
        next_due=slots.next_due(timing, last, now) if entry.state == "on" else None,
        lateness=record.late[-1] if late else None,
        late_p95=late[math.ceil(0.95 * len(late)) - 1] if late else None,
        late_max=late[-1] if late else None,
        fired=record.fired,
        missed=record.missed,
        gaps=record.gaps,
        skipped=record.skipped,
        run_now=one_line(record.run_now),
        holder=live.name if live else "",
        holder_age=live.age if live else None,
    )
