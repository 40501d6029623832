"""``metrics.jsonl``: what a training logs, one JSON line per call, read from its tail.

Not-a-number and infinities are written as text, so that every line is strict JSON.
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

from msgspec import Struct

from hpcpools import atomic

TAIL_BYTES = 64 * 1024


class Progress(Struct, frozen=True):
    """The newest logged step. ``at`` is epoch seconds; ``values`` the newest value of each name."""

    step: int | None
    total: int | None
    at: float
    values: dict[str, float]


def log(path: Path, at: float, step: int | None, total: int | None, values: dict[str, Any]) -> None:
    """Append one line. Values that are no number are taken through ``float()`` (0-d tensors work)."""
    line: dict[str, Any] = {"at": at}
    if step is not None:
        line["step"] = int(step)
    if total is not None:
        line["total"] = int(total)
    for name, value in values.items():
        number = value if isinstance(value, int) and not isinstance(value, bool) else float(value)
        line[name] = number if math.isfinite(number) else str(number)
    atomic.append_line(path, line)


def progress(path: Path) -> Progress | None:
    """The newest step and values; None if nothing was logged."""
    at: float | None = None
    newest: dict[str, Any] = {}
    values: dict[str, float] = {}
    for line in atomic.newest_lines(path, tail_bytes=TAIL_BYTES):
        at = float(line.get("at", 0.0)) if at is None else at
        for name, value in line.items():
            if name in ("step", "total"):
                newest.setdefault(name, value)
            elif name not in values and name != "at":
                with contextlib.suppress(TypeError, ValueError):
                    values[name] = float(value)
    return None if at is None else Progress(newest.get("step"), newest.get("total"), at, values)
