"""How long short tasks waited and ran, and why they failed: counted in shared memory, brought to Redis later.

Owns the histograms and the hash ``hp:tally``. A job costs its child a few additions and Redis nothing; what a
killed supervisor had not yet brought is lost, so these are measurements, not records.
"""

from __future__ import annotations

import mmap
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpcpools.redisdb import keys
from hpcpools.short.outcome import CAUSES, LOST

if TYPE_CHECKING:
    from redis import Redis

KEY = keys.key("tally")
BOUNDS = (0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0)  # seconds, upper ends
OTHER = "other"
MOST = 200  # tasks that are counted by name: whoever reads this must not drown in series
RAN, FAILED, WAITED, CAUSE = "ran", "failed", "waited", "cause"
_SLOTS = len(BOUNDS) + 2  # one per bound, one for what is longer, the sum in microseconds
_FIELD = re.compile(rb"(ran|failed|waited) ([0-9]{1,2}) (.+)", re.DOTALL)


@dataclass(frozen=True)
class Histogram:
    """``counts[i]``: durations up to ``BOUNDS[i]``, the last one all longer ones; ``total`` in seconds."""

    counts: tuple[int, ...]
    total: float


class Tally:
    """Shared by the supervisor and its children; each child adds to its own line only.

    Once a child is dead, its line is the supervisor's. One more line is the supervisor's alone.
    """

    def __init__(self, lines: int, tasks: Sequence[str], queues: Sequence[str]) -> None:
        names = [*sorted(tasks)[:MOST], OTHER]
        self._rows = [(kind, name) for name in names for kind in (RAN, FAILED)]
        self._rows += [(WAITED, queue) for queue in queues]
        self._place = {row: number * _SLOTS for number, row in enumerate(self._rows)}
        self._causes = {word: len(self._rows) * _SLOTS + number for number, word in enumerate(CAUSES)}
        self._open = len(self._rows) * _SLOTS + len(
            CAUSES
        )  # the place where what runs is counted if it fails
        self._width = self._open + 1
        self._cells = memoryview(mmap.mmap(-1, (lines + 1) * self._width * 8)).cast("q")
        self._own = lines
        self._told: dict[str, int] = defaultdict(int)

    def starts(self, line: int, task: str) -> None:
        """The child of ``line`` runs this task from now on."""
        self._cells[line * self._width + self._open] = self._of(FAILED, task)

    def ran(self, line: int, task: str, seconds: float, *, cause: str = "") -> None:
        """A task ended after ``seconds``; ``cause``: it failed, for this one of CAUSES."""
        self._cells[line * self._width + self._open] = 0
        self._add(line, self._of(FAILED if cause else RAN, task), seconds)
        if cause:
            self._cells[line * self._width + self._causes[cause]] += 1

    def died(self, line: int, seconds: float, cause: str) -> None:
        """What the dead child of ``line`` had started failed after ``seconds``. Told twice, counted once."""
        place = self._cells[line * self._width + self._open]
        if place:
            self._cells[line * self._width + self._open] = 0
            self._add(line, place, seconds)
            self._cells[line * self._width + self._causes[cause]] += 1

    def lost(self, task: str, seconds: float) -> None:
        """A task, of whichever pool, failed for good because its workers were killed."""
        self.ran(self._own, task, seconds, cause=LOST)

    def waited(self, line: int, queue: str, seconds: float) -> None:
        """A job of ``queue`` started ``seconds`` after it was enqueued."""
        place = self._place.get((WAITED, queue))
        if place is not None:
            self._add(line, place, max(0.0, seconds))

    def bring(self, connection: Redis) -> None:
        """Add to Redis what was counted since the last time. Raises redis-py's errors and loses nothing."""
        now = self.counted()
        fresh = {name: value - self._told[name] for name, value in now.items() if value != self._told[name]}
        if not fresh:
            return
        with connection.pipeline(transaction=True) as pipe:
            for name, more in fresh.items():
                pipe.hincrby(KEY, name, more)
            pipe.execute()
        self._told.update(now)

    def _of(self, kind: str, task: str) -> int:
        return self._place.get((kind, task), self._place[kind, OTHER])

    def _add(self, line: int, place: int, seconds: float) -> None:
        start = line * self._width + place
        self._cells[start + bisect_left(BOUNDS, seconds)] += 1
        self._cells[start + _SLOTS - 1] += int(seconds * 1e6)

    def counted(self) -> dict[str, int]:
        """Everything so far, by the fields of ``hp:tally``."""
        sums = [sum(self._cells[at :: self._width]) for at in range(self._width)]
        named = {
            f"{kind} {number} {name}": sums[self._place[kind, name] + number]
            for kind, name in self._rows
            for number in range(_SLOTS)
        }
        named |= {f"{CAUSE} {word}": sums[place] for word, place in self._causes.items()}
        return {name: value for name, value in named.items() if value}


def read(connection: Redis) -> dict[tuple[str, str], Histogram]:
    """(RAN or FAILED, task) and (WAITED, queue) → histogram, since Redis was made."""
    cells: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0] * _SLOTS)
    raw: dict[bytes, bytes] = connection.hgetall(KEY)  # type: ignore[assignment]
    for field, value in raw.items():
        found = _FIELD.fullmatch(field)
        if found is not None and int(found[2]) < _SLOTS and value.isdigit():  # else it is not ours
            cells[found[1].decode(), found[3].decode("utf-8", "replace")][int(found[2])] = int(value)
    return {row: Histogram(tuple(found[:-1]), found[-1] / 1e6) for row, found in cells.items()}


def causes(connection: Redis) -> dict[str, int]:
    """Cause → number of failures, since Redis was made; all of CAUSES."""
    raw: list[bytes | None] = connection.hmget(KEY, [f"{CAUSE} {word}" for word in CAUSES])  # type: ignore[assignment]
    return {
        word: int(value) if value and value.isdigit() else 0 for word, value in zip(CAUSES, raw, strict=True)
    }
