"""The curves of a run, thinned out to what a screen can show, from line files of any length.

Owns the sampling: of a file that is too long to be read for a page, evenly spaced pieces are. Refuses links
and special files, and numbers that are none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hpcpools import atomic
from hpcpools.runs import telemetry
from hpcpools.runs.attempts import Attempt

WHOLE = 4 << 20  # bytes up to which a file is read as a whole
PIECES, PIECE = 400, 8 << 10  # of a longer one: how many pieces, of how many bytes
POINTS = 1200  # of a curve
CURVES = 12  # names that are drawn; loss first
_TIMES = ("at", "step", "total")


def lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a line file, or of even samples of it, in order."""
    file = atomic.open_regular(path)
    if file is None:
        return []
    with file:
        size = file.seek(0, 2)
        file.seek(0)
        if size <= WHOLE:
            return list(_objects(file.read(WHOLE).split(b"\n")))
        found: list[dict[str, Any]] = []
        for number in range(PIECES):
            file.seek(number * (size - PIECE) // (PIECES - 1))
            found.extend(_objects(file.read(PIECE).split(b"\n")[1:]))  # the first line is torn, or was read
        return found


def metrics(path: Path) -> dict[str, Any]:
    """``x`` (steps, or times where no step is logged), ``names`` and a column of values for each."""
    found = lines(path)
    by_step = any(isinstance(line.get("step"), int) for line in found)
    axis = "step" if by_step else "at"
    points = {x: {} for line in found if (x := _number(line.get(axis))) is not None}  # type: dict[float, dict[str, float]]
    for line in found:
        x = _number(line.get(axis))
        for name, value in line.items():
            number = _number(value)
            if x is not None and name not in _TIMES and number is not None:
                points[x][str(name)] = number  # a resumed run logs some steps again: the newest counts
    names = dict.fromkeys(name for values in points.values() for name in values)
    chosen = sorted(names, key=lambda name: (not name.endswith("loss"), list(names).index(name)))[:CURVES]
    kept = _thinned(sorted(points))
    return {
        "axis": axis,
        "x": kept,
        "names": chosen,
        "columns": [[points[x].get(name) for x in kept] for name in chosen],
    }


def gpus(attempts: Iterable[Attempt]) -> dict[str, Any]:
    """Utilisation in percent over time: the mean of all GPUs of the first node, and the busiest."""
    rows: dict[float, tuple[float, float] | None] = {}
    for attempt in attempts:
        at = None
        for line in lines(attempt.path / telemetry.FILE):
            at = _number(line.get("at"))
            said = line.get("gpus")
            busy = [
                value
                for sample in (said if isinstance(said, list) else ())
                if isinstance(sample, dict) and (value := _number(sample.get("util"))) is not None
            ]
            if at is not None and busy:
                rows[at] = (sum(busy) / len(busy), max(busy))
        if at is not None:
            rows[at + 0.001] = None  # a gap: between two attempts nothing was measured
    kept = _thinned(sorted(rows))
    columns = [[None if (row := rows[x]) is None else round(row[which], 1) for x in kept] for which in (0, 1)]
    return {"axis": "at", "x": kept, "names": ["mean", "busiest"], "columns": columns}


def _objects(found: Iterable[bytes]) -> Iterable[dict[str, Any]]:
    for line in found:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def _number(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def _thinned(found: list[float]) -> list[float]:
    """Evenly spaced, the newest always among them."""
    step = -(-len(found) // POINTS) or 1
    return found[::-1][::step][::-1]
