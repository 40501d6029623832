"""Reading what the services wrote: one log or all of them in order of time, filtered, and followed.

Owns the walk over rotated files and the filter. Refuses anything but regular files of the log folder.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpcpools import eventlog
from hpcpools.config import Config
from hpcpools.services import logs, table

SUPERVISOR = "supervisor"


@dataclass(frozen=True)
class Filter:
    """Which lines: not older than ``since`` (epoch seconds), matching ``grep``, about the work ``about``."""

    since: float | None = None
    grep: re.Pattern[str] | None = None
    about: str = ""

    def passes(self, facts: dict[str, Any]) -> bool:
        """Whether a parsed line is wanted."""
        if self.since is not None and str(facts.get("at", "")) < eventlog.stamp(self.since):
            return False
        if self.about and all(str(facts.get(name, "")) != self.about for name in eventlog.IDS):
            return False
        return self.grep is None or self.grep.search(logs.render(facts)) is not None


def names(config: Config) -> tuple[str, ...]:
    """Every log there can be."""
    return (SUPERVISOR, *(service.name for service in table.services(config)))


def read(config: Config, of: tuple[str, ...], wanted: Filter) -> list[dict[str, Any]]:
    """All wanted lines of the logs ``of``, oldest first."""
    found = [
        facts
        for name in of
        for path in _files(config, name)
        for facts in _parsed(_bytes(path, 0))
        if wanted.passes(facts)
    ]
    return sorted(found, key=lambda facts: str(facts.get("at", "")))


@dataclass
class Follower:
    """What was written to some logs since the last :meth:`read`; a rotation loses nothing."""

    config: Config
    of: tuple[str, ...]
    wanted: Filter
    _seen: dict[str, tuple[int, int]] = field(default_factory=dict)  # log → (inode, offset)

    def __post_init__(self) -> None:
        for name in self.of:
            self._seen[name] = _place(logs.log_path(self.config, name))

    def read(self) -> list[dict[str, Any]]:
        """The wanted new lines, oldest first."""
        found = [facts for name in self.of for facts in self._new(name) if self.wanted.passes(facts)]
        return sorted(found, key=lambda facts: str(facts.get("at", "")))

    def _new(self, name: str) -> Iterator[dict[str, Any]]:
        path = logs.log_path(self.config, name)
        inode, offset = self._seen[name]
        newest, _ = _place(path)
        if inode and newest != inode:  # rotated: the rest of the old file first
            for old in _files(self.config, name):
                if _place(old)[0] == inode:
                    yield from _parsed(_bytes(old, offset))
            offset = 0
        data = _bytes(path, offset)
        whole = data[: data.rfind(b"\n") + 1]
        self._seen[name] = (newest, offset + len(whole))
        yield from _parsed(whole)


def _files(config: Config, name: str) -> list[Path]:
    """The rotated files of a log, oldest first."""
    path = logs.log_path(config, name)
    rotated = [Path(f"{path}.{number}") for number in range(config.services.log_files - 1, 0, -1)]
    return [each for each in (*rotated, path) if _place(each)[0]]


def _parsed(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.decode(errors="replace").splitlines():
        if line.strip():
            yield logs.parse(line)


def _bytes(path: Path, offset: int) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return b""
        file.seek(offset)
        return file.read()


def _place(path: Path) -> tuple[int, int]:
    """(inode, size); (0, 0) if there is none."""
    try:
        facts = path.lstat()
    except OSError:
        return 0, 0
    return facts.st_ino, facts.st_size
