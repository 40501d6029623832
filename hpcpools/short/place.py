"""The place of one worker in the pool: its process, or what is left to do about one that is dead.

Owns when the next process may start there. Refuses to start one after the other at full speed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from hpcpools.short.board import Work
from hpcpools.short.outcome import Reason
from hpcpools.short.worker import HpcWorker

SETTLED = 5.0  # seconds a child must have lived for the next one to start without delay
LONGEST_DELAY = 5.0  # seconds between two starts of a child that keeps dying


@dataclass
class Place:
    """``pid`` while a process lives; ``code`` from its death until its work is settled."""

    line: int
    worker: HpcWorker
    open: bool  # it shall have a process
    pid: int = 0
    code: int | None = None
    started: float = 0.0
    ended: float = 0.0
    quick_deaths: int = 0
    not_before: float = 0.0
    done: bool = False  # it ended by itself in a burst
    killed: Work | None = None  # what we killed it for; it may have gone on to other work in that moment
    reason: Reason | None = None  # with what to fail that; None: put it back

    @property
    def free(self) -> bool:
        """Whether a process is missing."""
        return self.open and not (self.pid or self.code is not None or self.done)

    def began(self, pid: int) -> None:
        """A process serves it."""
        self.pid, self.started = pid, time.monotonic()
        self.worker.born(pid)

    def died(self, code: int, *, expected: bool) -> None:
        """``expected``: nothing speaks against starting the next one at once."""
        self.code, self.pid, self.ended = code, 0, time.monotonic()
        quick = not expected and self.ended - self.started < SETTLED
        self.quick_deaths = self.quick_deaths + 1 if quick else 0
        delay = min(0.1 * 2**self.quick_deaths, LONGEST_DELAY) if quick else 0.0
        self.not_before = self.ended + delay
