"""The time slots of a schedule: a fixed grid of whole seconds in UTC, never "now plus interval".

Owns which slot is next, newest and due; pure, the clock is passed in. Refuses timings that have no fixed
grid: parts of a second, cron lines with random or hashed fields, and dates that never come.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from datetime import datetime, timezone

from croniter import croniter

from hpcpools.catalog import BUILT_IN
from hpcpools.config import Config
from hpcpools.errors import ConfigError
from hpcpools.schema import Schedule
from hpcpools.textsafe import one_line

MAX_COUNTED = 10_000  # missed slots of a cron line are counted one by one, up to here
_RANDOM = re.compile(r"(?<![A-Za-z])[RrHh](?![A-Za-z])")


@dataclass(frozen=True)
class Timing:
    """When a schedule fires: ``every`` so many seconds since the epoch, or by a ``cron`` line in UTC.

    ``offset``: seconds by which the grid is moved, so that the upkeep of many pools is not due at once.
    """

    every: int = 0
    cron: str = ""
    offset: int = 0

    def __str__(self) -> str:
        return f"cron {self.cron}" if self.cron else f"every {self.every}s"

    def next(self, after: float) -> int:
        """The first slot later than ``after`` (seconds since the epoch, like every slot)."""
        if self.cron:
            return int(self._iterate(int(after)).get_next(float))
        return ((int(after) - self.offset) // self.every + 1) * self.every + self.offset

    def newest(self, now: float) -> int:
        """The last slot at or before ``now``."""
        if self.cron:
            return int(self._iterate(int(now) + 1).get_prev(float))
        return (int(now) - self.offset) // self.every * self.every + self.offset

    def between(self, first: int, last: int) -> int:
        """How many slots lie strictly between ``first`` and ``last``; MAX_COUNTED means "or more"."""
        if not self.cron:
            return max(0, (last - 1 - self.offset) // self.every - (first - self.offset) // self.every)
        slots = self._iterate(first)
        count = 0
        while count < MAX_COUNTED and slots.get_next(float) < last:
            count += 1
        return count

    def _iterate(self, start: int) -> croniter:
        return croniter(self.cron, datetime.fromtimestamp(start, timezone.utc))


@dataclass(frozen=True)
class Due:
    """The one slot to fire now, and how many older ones were missed on the way."""

    slot: int
    missed: int


def due(timing: Timing, last: int, now: float) -> Due | None:
    """What to fire at ``now`` if ``last`` was the last slot handled; None if nothing is due.

    After downtime only the newest slot is due. If the clock was set back, the slot of the new time is due:
    its id tells whether it was fired before.
    """
    newest = timing.newest(now)
    if newest == last:
        return None
    return Due(newest, timing.between(last, newest) if last < newest else 0)


def next_due(timing: Timing, last: int | None, now: float) -> int:
    """When the next slot after ``last`` is or was due; ``last`` None: nothing fired yet."""
    return timing.next(now if last is None else min(last, now))


def job_id(name: str, slot: int) -> str:
    """The id of the firing of schedule ``name`` for ``slot``: the same whoever fires it."""
    return f"{name}-{slot}"


def timing(config: Config, name: str, schedule: Schedule) -> Timing:
    """The timing of a declared schedule. Raises ConfigError naming file, key, value and what is allowed."""
    where = f"{config.file}: schedule.{name}"
    if schedule.every is not None:  # the schema has made sure of whole seconds
        every = int(schedule.every)
        ours = schedule.task.startswith(f"{BUILT_IN}:")
        return Timing(every=every, offset=zlib.crc32(str(config.runtime_dir).encode()) % every if ours else 0)
    found = Timing(cron=" ".join(schedule.cron.split()))
    try:
        if _RANDOM.search(found.cron) or len(found.cron.split()) not in (1, 5):
            raise ValueError("needs five plain fields, or a name such as @daily")
        found.next(0)
    except ValueError as error:
        raise ConfigError(
            f"{where}.cron = {one_line(schedule.cron)!r}: {one_line(str(error))}",
            hint='minute hour day month weekday, in UTC, for example "*/5 * * * *"',
        ) from None
    return found
