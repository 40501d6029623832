"""What Slurm's commands cost this pool on this host, over all its processes: one line per call in a file.

Owns the file and its reading. Refuses locks: a line is one append to a local disk, far less than the call it
is about. A file that got long begins anew, which readers take as what it is: a counter that restarted.
"""

from __future__ import annotations

import contextlib
import os
import re
from bisect import bisect_left
from pathlib import Path

from msgspec import Struct

NAME = "slurm-calls"  # in the runtime directory
LONGEST = 1_000_000  # bytes: about 50 000 calls
BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds, upper ends
_LINE = re.compile(rb"([a-z]{1,16}) (\d{1,9}\.\d{3}) ([01])")


class Load(Struct, frozen=True):
    """``counts[i]``: calls of up to ``BOUNDS[i]`` seconds, the last one all longer ones; ``total`` in s."""

    counts: tuple[int, ...]
    total: float
    failed: int


def note(file: Path, command: str, seconds: float, *, failed: bool) -> None:
    """Add one call. Where that is not possible (no service ever ran here) nothing happens."""
    with contextlib.suppress(OSError):
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, f"{Path(command).name} {seconds:.3f} {failed:d}\n".encode())
            if os.fstat(fd).st_size > LONGEST:
                file.unlink()
        finally:
            os.close(fd)


def read(file: Path) -> dict[str, Load]:
    """Command → its load since the file began; empty if there is none."""
    counts: dict[str, list[int]] = {}
    totals: dict[str, float] = {}
    failures: dict[str, int] = {}
    try:
        data = file.read_bytes()
    except OSError:
        return {}
    for found in map(_LINE.fullmatch, data.split(b"\n")):
        if found is not None:
            name, seconds = found[1].decode(), float(found[2])
            counts.setdefault(name, [0] * (len(BOUNDS) + 1))[bisect_left(BOUNDS, seconds)] += 1
            totals[name] = totals.get(name, 0.0) + seconds
            failures[name] = failures.get(name, 0) + (found[3] == b"1")
    return {name: Load(tuple(counts[name]), totals[name], failures[name]) for name in counts}
