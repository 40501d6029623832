"""``metrics.jsonl``: what a training logs, one JSON line per call, read from its tail.

Not-a-number and infinities are written as text, so that every line is strict JSON.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcpools import atomic

TAIL_BYTES = 64 * 1024


@dataclass(frozen=True)
class Progress:
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
    lines = atomic.read_lines(path, tail_bytes=TAIL_BYTES)
    if not lines:
        return None
    step = total = None
    values: dict[str, float] = {}
    for line in lines:
        step = line.get("step", step)
        total = line.get("total", total)
        for name, value in line.items():
            if name not in ("at", "step", "total"):
                try:
                    values[str(name)] = float(value)
                except (TypeError, ValueError):
                    continue
    return Progress(step, total, float(lines[-1].get("at", 0.0)), values)
