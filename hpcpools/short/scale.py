"""How many workers the short pool should have now: more while work waits, fewer once they idle.

Pure decisions from what the supervisor measured. Owns the hysteresis; starts and ends nothing itself.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from hpcpools.schema import Short

PAUSE = 5.0  # seconds between two additions: the ones just started must show what they change


@dataclass(frozen=True)
class Load:
    """The pool at one moment. ``oldest``: seconds that the first waiting job has waited, 0 without one."""

    waiting: int
    oldest: float
    workers: int  # running, and not told to end
    busy: int


class Scale:
    """Between ``workers`` and ``max_workers`` of the config.

    Grows when every worker is busy and work waits too long (``grow_after``) or is too much (``grow_backlog``
    jobs per worker): by as many as the backlog asks for, at most to the double. Shrinks to the most that
    were busy at once in the last ``shrink_after`` seconds, so a worker that was needed a moment ago stays.
    """

    def __init__(self, short: Short) -> None:
        self._short = short
        self._least = short.workers
        self._most = max(short.workers, short.max_workers)
        self._grown = -math.inf
        self._peaks: deque[tuple[float, int]] = deque()  # (when, busy), the busiest first, each later

    @property
    def fixed(self) -> bool:
        """Whether there is nothing to decide."""
        return self._least == self._most

    def wanted(self, load: Load, now: float) -> int:
        """How many workers there should be; ``now`` in seconds of a monotonic clock."""
        self._remember(now, load.workers if load.waiting else load.busy)
        if self._too_much(load) and now - self._grown >= PAUSE:
            self._grown = now
            asked = math.ceil(load.waiting / self._short.grow_backlog)
            more = max(1, min(asked, load.workers))
            return min(self._most, load.workers + more)
        if now - self._grown < self._short.shrink_after:
            return max(load.workers, self._least)
        return max(self._least, min(load.workers, self._peaks[0][1]))

    def _too_much(self, load: Load) -> bool:
        if not load.waiting or load.busy < load.workers:
            return False
        return load.oldest >= self._short.grow_after or load.waiting >= self._short.grow_backlog * max(
            1, load.workers
        )

    def _remember(self, now: float, needed: int) -> None:
        """Keep what can still be the peak of the window: nothing that a later, higher one hides."""
        while self._peaks and self._peaks[-1][1] <= needed:
            self._peaks.pop()
        self._peaks.append((now, needed))
        while now - self._peaks[0][0] > self._short.shrink_after:
            self._peaks.popleft()
