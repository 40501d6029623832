"""A token bucket in a small file that all processes of a pool share: how often Slurm may be asked something.

Owns the file and its lock. Refuses to trust a clock that ran backwards: the bucket is then as it was left.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from hpcpools.errors import PermissionsError


class Level(Struct, frozen=True):
    """``tokens`` in the bucket at ``at`` (epoch seconds); below 0 others wait already."""

    tokens: float
    at: float


def fill(level: Level, now: float, *, rate: float, burst: float) -> Level:
    """The level at ``now``, with ``rate`` tokens a second and room for ``burst``. Pure."""
    return Level(min(burst, level.tokens + max(0.0, now - level.at) * rate), max(now, level.at))


class Bucket:
    """``rate`` tokens per second, at most ``burst`` at once, in the file ``path`` (its folder exists)."""

    def __init__(
        self, path: Path, *, rate: float, burst: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._path = path
        self._rate = rate
        self._burst = float(burst)
        self._clock = clock

    def reserve(self) -> float:
        """Take a token, also one that is not there yet: how many seconds to wait before its use."""
        tokens = self._take(at_least=None)
        return max(0.0, -tokens / self._rate)

    def take(self) -> bool:
        """Take a token if one is there."""
        return self._take(at_least=1.0) >= 0.0

    def _take(self, *, at_least: float | None) -> float:
        """The tokens left after taking one; -1, and nothing taken, if there are fewer than ``at_least``."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise PermissionsError(f"{self._path} is no regular file", hint="remove it")
            fcntl.flock(fd, fcntl.LOCK_EX)  # held for microseconds
            now = self._clock()
            level = fill(self._read(fd, now), now, rate=self._rate, burst=self._burst)
            if at_least is not None and level.tokens < at_least:
                return -1.0
            left = level.tokens - 1.0
            text = json.dumps({"tokens": left, "at": level.at}).encode()
            os.pwrite(fd, text, 0)
            os.ftruncate(fd, len(text))
            return left
        finally:
            os.close(fd)

    def _read(self, fd: int, now: float) -> Level:
        """What the file says; a full bucket if it is new, damaged, or from a clock far ahead of ours."""
        with contextlib.suppress(ValueError, KeyError, TypeError):
            facts = json.loads(os.pread(fd, 256, 0))
            level = Level(float(facts["tokens"]), float(facts["at"]))
            if level.at - now < 60:
                return level
        return Level(self._burst, now)
