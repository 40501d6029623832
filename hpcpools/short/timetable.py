"""What is known of each schedule: one small hash in Redis, and the view of it for `hpcpools status`.

Owns the hash ``hp:schedule:NAME`` and its reading. Refuses to guess: unreadable fields count as unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hpcpools.config import Config
from hpcpools.redisdb import keys
from hpcpools.short import lease, slots

if TYPE_CHECKING:
    from redis import Redis


@dataclass(frozen=True)
class Record:
    """What the scheduler remembers of one schedule; times in seconds since the epoch, by Redis's clock."""

    timing: str = ""  # a record of another timing says nothing about this one's slots
    last_slot: int | None = None  # the newest slot handled: fired, or skipped
    last_job: str = ""
    last_fired: float | None = None
    lateness: float | None = None  # seconds from the slot to its firing
    fired: int = 0
    missed: int = 0  # slots that passed while no scheduler was live
    skipped: int = 0  # slots not fired because the firing before still waited in its queue

    def to_hash(self) -> dict[Any, Any]:
        """The fields as Redis keeps them, unknown ones left out."""
        return {name: value for name, value in vars(self).items() if value is not None}

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
                last_job=text.get("last_job", ""),
                last_fired=float(text["last_fired"]) if "last_fired" in text else None,
                lateness=float(text["lateness"]) if "lateness" in text else None,
                fired=int(text.get("fired", 0)),
                missed=int(text.get("missed", 0)),
                skipped=int(text.get("skipped", 0)),
            )
        except ValueError:
            return Record()

    def after_firing(self, due: slots.Due, job_id: str, now: float) -> Record:
        """The record once ``due`` was fired as ``job_id`` at ``now``."""
        return replace(
            self.after_passing(due),
            last_job=job_id,
            last_fired=now,
            lateness=round(now - due.slot, 6),
            fired=self.fired + 1,
        )

    def after_passing(self, due: slots.Due, *, skipped: int = 0) -> Record:
        """The record once ``due`` was handled without a firing."""
        return replace(
            self, last_slot=due.slot, missed=self.missed + due.missed, skipped=self.skipped + skipped
        )


def _slot(text: str) -> int:
    slot = int(text)
    if not 0 <= slot < 2**33:
        raise ValueError(f"{slot} is no time of this age")
    return slot


@dataclass(frozen=True)
class ScheduleStatus:
    """One schedule as `hpcpools status` shows it; times in seconds since the epoch, lengths in seconds."""

    name: str
    task: str
    timing: str  # "every 60s" or "cron */5 * * * *"
    queue: str
    last_fired: float | None
    next_due: float  # in the past if it is overdue
    lateness: float | None
    fired: int
    missed: int
    skipped: int
    holder: str  # host:pid of the live scheduler; "" if none is live
    holder_age: float | None  # seconds since it last said so


def record_key(name: str) -> str:
    """Hash: the record of one schedule."""
    return keys.key("schedule", name)


def records(connection: Redis, names: list[str]) -> dict[str, Record]:
    """The record of each of ``names``, in one round trip."""
    with connection.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.hgetall(record_key(name))
        return {name: Record.from_hash(raw) for name, raw in zip(names, pipe.execute(), strict=True)}


def schedule_view(config: Config, connection: Redis) -> list[ScheduleStatus]:
    """Every declared schedule, in the order of the config; works without a live scheduler, and says so.

    Raises ConfigError for a schedule whose timing has no slots.
    """
    seconds, micros = connection.time()
    now = seconds + micros / 1e6
    live = lease.holder(connection)
    declared = config.schedules
    known = records(connection, list(declared))
    view = []
    for name, entry in declared.items():
        timing = slots.timing(config, name, entry)
        record = known[name]
        last = record.last_slot if record.timing == str(timing) else None
        view.append(
            ScheduleStatus(
                name=name,
                task=entry.task,
                timing=str(timing),
                queue=entry.queue,
                last_fired=record.last_fired,
                next_due=slots.next_due(timing, last, now),
                lateness=record.lateness,
                fired=record.fired,
                missed=record.missed,
                skipped=record.skipped,
                holder=live.name if live else "",
                holder_age=live.age if live else None,
            )
        )
    return view
