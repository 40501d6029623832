"""The time slots of a schedule: a fixed grid of whole seconds, never "now plus interval".

Owns which slot is next, newest and due; pure, the clock is passed in. Refuses timings that have no fixed
grid: parts of a second, cron lines with random or hashed fields, and dates that never come.

A cron line is read on the wall clock of its zone (UTC if none is named). Each time of that wall clock fires
once: what the clock shows twice, at its first showing; what it leaps over, at the moment after the leap.
"""

from __future__ import annotations

import re
import zlib
from bisect import bisect_left
from collections.abc import Iterator
from datetime import datetime, timezone, tzinfo
from itertools import islice, takewhile
from typing import TYPE_CHECKING

from msgspec import Struct

from hpcpools.catalog import BUILT_IN
from hpcpools.config import Config
from hpcpools.errors import ConfigError
from hpcpools.schema import Schedule
from hpcpools.textsafe import one_line

if TYPE_CHECKING:
    from croniter import croniter

MAX_COUNTED = 10_000  # missed slots of a cron line are counted one by one, up to here
_RANDOM = re.compile(r"(?<![A-Za-z])[RrHh](?![A-Za-z])")


class Timing(Struct, frozen=True):
    """When a schedule fires: ``every`` so many seconds since the epoch, or by a ``cron`` line in ``zone``.

    ``offset``: seconds by which the grid is moved, so that the upkeep of many pools is not due at once.
    """

    every: int = 0
    cron: str = ""
    offset: int = 0
    zone: str = "UTC"

    def __str__(self) -> str:
        return f"cron {self.cron} {self.zone}" if self.cron else f"every {self.every}s"

    def next(self, after: float) -> int:
        """The first slot later than ``after`` (seconds since the epoch, like every slot)."""
        if self.cron:
            return next(self._slots(int(after)))
        return ((int(after) - self.offset) // self.every + 1) * self.every + self.offset

    def newest(self, now: float) -> int:
        """The last slot at or before ``now``."""
        if not self.cron:
            return (int(now) - self.offset) // self.every * self.every + self.offset
        before = _walls(self.cron, self._wall(int(now)) + 1)
        found = self._instant(int(before.get_prev(float)))
        # A clock that was set back shows times whose slots have passed already.
        return max(takewhile(lambda slot: slot <= now, self._slots(found)), default=found)

    def between(self, first: int, last: int) -> int:
        """How many slots lie strictly between ``first`` and ``last``; MAX_COUNTED means "or more"."""
        if not self.cron:
            return max(0, (last - 1 - self.offset) // self.every - (first - self.offset) // self.every)
        passed = takewhile(lambda slot: slot < last, self._slots(first))
        return sum(1 for _ in islice(passed, MAX_COUNTED))

    def _slots(self, after: int) -> Iterator[int]:
        """The slots of the cron line later than ``after``, in order, without end."""
        walls = _walls(self.cron, self._wall(after))
        while True:
            slot = self._instant(int(walls.get_next(float)))
            if slot > after:  # not one that shares its moment with another, or was at the first showing
                yield slot
                after = slot

    def _offset(self, at: int) -> int:
        """Seconds that the zone's clock is ahead of UTC."""
        ahead = datetime.fromtimestamp(at, _clock(self.zone)).utcoffset()
        return int(ahead.total_seconds()) if ahead else 0

    def _wall(self, at: int) -> int:
        """What the zone's clock shows, as if it were UTC."""
        return at + self._offset(at)

    def _instant(self, wall: int) -> int:
        """When the zone's clock shows ``wall`` first, or leaps over it; never falls as ``wall`` grows."""
        shown = datetime.fromtimestamp(wall, timezone.utc).replace(tzinfo=_clock(self.zone))
        late, early = int(shown.timestamp()), int(shown.replace(fold=1).timestamp())
        if self._wall(late) == wall:
            return late
        return early + bisect_left(range(early, late), self._offset(late), key=self._offset)


def _clock(zone: str) -> tzinfo:
    if zone == "UTC":
        return timezone.utc
    from zoneinfo import ZoneInfo

    return ZoneInfo(zone)


def _walls(cron: str, start: int) -> croniter:
    from croniter import croniter  # here: `status` needs it only where a cron line is declared

    return croniter(cron, datetime.fromtimestamp(start, timezone.utc))


class Due(Struct, frozen=True):
    """The one slot to fire now; how many older ones were missed on the way, the first and last of them."""

    slot: int
    missed: int = 0
    missed_from: int | None = None
    missed_to: int | None = None


def due(timing: Timing, last: int, now: float) -> Due | None:
    """What to fire at ``now`` if ``last`` was the last slot handled; None if nothing is due.

    After downtime only the newest slot is due. If the clock was set back, the slot of the new time is due:
    its id tells whether it was fired before.
    """
    newest = timing.newest(now)
    if newest == last:
        return None
    missed = timing.between(last, newest) if last < newest else 0
    return Due(newest, missed, timing.next(last), timing.newest(newest - 1)) if missed else Due(newest)


def next_due(timing: Timing, last: int | None, now: float) -> int:
    """When the next slot after ``last`` is or was due; ``last`` None: nothing fired yet."""
    return timing.next(now if last is None else min(last, now))


def job_id(name: str, slot: int) -> str:
    """The id of the firing of schedule ``name`` for ``slot``: the same whoever fires it."""
    return f"{name}-{slot}"


def timing(config: Config, name: str, schedule: Schedule, file: str = "") -> Timing:
    """The timing of a schedule declared in ``file``, by default the config's.

    Raises ConfigError naming file, key, value and what is allowed.
    """
    where = f"{file or config.file}: schedule.{name}"
    if schedule.every is not None:  # the schema has made sure of whole seconds
        every = int(schedule.every)
        ours = schedule.task.startswith(f"{BUILT_IN}:")
        return Timing(every=every, offset=zlib.crc32(str(config.runtime_dir).encode()) % every if ours else 0)
    found = Timing(cron=" ".join(schedule.cron.split()), zone=schedule.timezone)
    try:
        if _RANDOM.search(found.cron) or len(found.cron.split()) not in (1, 5):
            raise ValueError("needs five plain fields, or a name such as @daily")
        found.next(0)
    except ValueError as error:
        raise ConfigError(
            f"{where}.cron = {one_line(schedule.cron)!r}: {one_line(str(error))}",
            hint='minute hour day month weekday, for example "*/5 * * * *"',
        ) from None
    return found
