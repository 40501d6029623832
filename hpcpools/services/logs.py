"""Log files of the services: one JSON object per line, made harmless, in files that rotate.

Owns ``runtime_dir/logs`` and the form of a line: ``at``, ``service``, ``level``, then the facts of an event,
or ``text`` for what a program printed. Refuses to raise or to wait: a full disk drops lines, never stops a
service.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpcpools import eventlog
from hpcpools.config import Config
from hpcpools.textsafe import printable

MAX_LINE = 8192  # bytes; a longer line is split


def log_path(config: Config, name: str) -> Path:
    """The newest log file of the service ``name``; older ones have .1, .2 … appended."""
    return config.runtime_dir / "logs" / f"{name}.log"


def tail(path: Path, lines: int = 10) -> list[str]:
    """The last lines of a log file as people read them, safe for a terminal; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 64 * 1024))
            data = file.read()
    except OSError:
        return []
    return [render(parse(line)) for line in data.decode(errors="replace").splitlines()[-lines:]]


def parse(line: str) -> dict[str, Any]:
    """One line of a log file; what is not ours is all ``text``."""
    try:
        facts = json.loads(line) if line.startswith("{") else None
    except (ValueError, RecursionError):
        facts = None
    return facts if isinstance(facts, dict) else {"text": line}


def render(facts: Mapping[str, Any]) -> str:
    """A line for people: time, level if it matters, then the words."""
    rest = {name: value for name, value in facts.items() if name not in ("at", "service", "level", "pid")}
    words = str(rest["text"]) if set(rest) == {"text"} else eventlog.text(rest)
    level = str(facts.get("level", "info"))
    parts = (str(facts.get("at", "")), level.upper() if level != "info" else "", words)
    return printable(" ".join(part for part in parts if part))


class LineLog:
    """One rotating log file, fed with bytes as they come."""

    def __init__(self, path: Path, *, max_bytes: int, files: int) -> None:
        self.path = path
        self._service = path.name.removesuffix(".log")
        self._max_bytes = max_bytes
        self._files = files
        self._partial = b""

    @classmethod
    def of(cls, config: Config, name: str) -> LineLog:
        """The log of the service ``name``, with the sizes of the config."""
        services = config.services
        return cls(log_path(config, name), max_bytes=services.log_bytes, files=services.log_files)

    def feed(self, data: bytes) -> None:
        """Write every whole line in ``data``; keep the rest for the next call."""
        *whole, self._partial = (self._partial + data).split(b"\n")
        while len(self._partial) > MAX_LINE:
            whole.append(self._partial[:MAX_LINE])
            self._partial = self._partial[MAX_LINE:]
        self._write(whole)

    def finish(self) -> None:
        """Write the last line, if it had no newline."""
        if self._partial:
            self._write([self._partial])
            self._partial = b""

    def note(self, text: str) -> None:
        """One line of our own."""
        self.feed(text.replace("\n", " ").encode() + b"\n")

    def _write(self, lines: list[bytes]) -> None:
        if not lines:
            return
        with contextlib.suppress(OSError):
            size = self._size()
            page: list[bytes] = []
            for line in lines:
                data = self._encoded(line.decode(errors="replace").rstrip())
                if size and size + len(data) > self._max_bytes:
                    self._append(page)
                    self._rotate()
                    page, size = [], 0
                page.append(data)
                size += len(data)
            self._append(page)

    def _encoded(self, line: str) -> bytes:
        """An event that the service wrote as JSON keeps its facts; anything else is text."""
        facts = parse(line)
        if not {"at", "level"} <= facts.keys():
            facts = {"at": eventlog.stamp(time.time()), "level": "info", "text": printable(line)}
        facts.pop("service", None)  # what a task prints does not pass for another service's
        facts = {"at": facts.pop("at"), "service": self._service, **facts}
        return json.dumps(facts).encode() + b"\n"

    def _size(self) -> int:
        try:
            return self.path.lstat().st_size
        except FileNotFoundError:
            return 0

    def _append(self, page: list[bytes]) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self.path, flags, 0o600)
        try:
            os.write(fd, b"".join(page))
        finally:
            os.close(fd)

    def _rotate(self) -> None:
        """``name.log`` → ``name.log.1`` → … ; ``files`` files are kept, the newest included."""
        names = [self.path, *(Path(f"{self.path}.{number}") for number in range(1, self._files))]
        if self._files == 1:
            self.path.unlink()
        for older, newer in zip(reversed(names[1:]), reversed(names[:-1]), strict=True):
            with contextlib.suppress(FileNotFoundError):
                newer.replace(older)
