"""What each child is doing, in memory that it shares with the supervisor and that outlives its death.

Owns the layout of a line. Refuses nothing; only the child writes its line, only the supervisor clears it.
"""

from __future__ import annotations

import mmap
import struct
import time
from dataclasses import dataclass

_TEXT = 232  # bytes for the words of a Work
IDLE, RUNNING, SAVING = 0, 1, 2  # between jobs; in the task's own code; writing how it ended


@dataclass(frozen=True)
class Work:
    """One execution, by which rq's registries know it."""

    queue: str
    job: str
    execution: str


@dataclass(frozen=True)
class Running:
    """A task in its own code: since when (``time.monotonic()``, one for all), and its limit in seconds."""

    work: Work
    since: float
    limit: float


class Board:
    """One line per child: its state, until when its task may run, and the work it holds.

    A line that changes while it is read may be torn; once its child is dead it is exact.
    """

    _LINE = struct.Struct(f"<qdd{_TEXT}s")

    def __init__(self, lines: int) -> None:
        self._memory = mmap.mmap(-1, lines * self._LINE.size)

    def run(self, line: int, work: Work, limit: float) -> None:
        """The task is about to start; it may run for ``limit`` seconds."""
        text = f"{work.queue} {work.job} {work.execution}".encode()
        if len(text) > _TEXT:  # no id of ours is that long
            text = b""
        self._LINE.pack_into(self._memory, line * self._LINE.size, IDLE, time.monotonic(), limit, text)
        self._set(line, RUNNING)

    def save(self, line: int) -> None:
        """The task's own code is over."""
        self._set(line, SAVING)

    def clear(self, line: int) -> None:
        """Nothing is held."""
        self._set(line, IDLE)

    def state(self, line: int) -> int:
        """IDLE, RUNNING or SAVING."""
        return int(struct.unpack_from("<q", self._memory, line * self._LINE.size)[0])

    def running(self, line: int) -> Running | None:
        """What runs; None between tasks."""
        state, since, limit, text = self._LINE.unpack_from(self._memory, line * self._LINE.size)
        words = text.rstrip(b"\0").decode("utf-8", "replace").split(" ")
        if state != RUNNING or len(words) != 3:
            return None
        return Running(Work(*words), since, limit)

    def _set(self, line: int, state: int) -> None:
        struct.pack_into("<q", self._memory, line * self._LINE.size, state)
