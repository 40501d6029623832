"""What a sweep came to: one row per element, with arguments, state, newest metrics and result values.

Reads run directories only. Sorting is total: what has no such number comes last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpcpools import atomic
from hpcpools.errors import NotFoundError, UsageError
from hpcpools.runs import metrics
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.sweeps import SweepFile
from hpcpools.runs.view import read_view
from hpcpools.textsafe import one_line
from hpcpools.training import grid


@dataclass(frozen=True)
class Row:
    """One element. ``result`` holds the top-level numbers and texts of the returned value."""

    number: int
    run: str
    state: str
    arguments: dict[str, Any] = field(default_factory=dict)
    step: int | None = None
    total: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    cause: str = ""
    reason: str = ""
    job_id: str = ""
    attempts: int = 0


def read_rows(root: Path, content: SweepFile) -> list[Row]:
    """The rows of a sweep, in the order of its points; a run that was removed is MISSING."""
    return [_row(root, number, token) for number, token in enumerate(content.tokens)]


def _row(root: Path, number: int, token: str) -> Row:
    run = RunDirectory(root, token)
    try:
        view = read_view(run)
    except NotFoundError:
        return Row(number, token, "MISSING")
    progress = metrics.progress(run.metrics_file)
    changed = run.submission(view.submission).get("arguments") or {}
    return Row(
        number,
        token,
        view.state.value,
        {**view.request.arguments, **changed},
        progress.step if progress else None,
        progress.total if progress else None,
        progress.values if progress else {},
        flat(atomic.read_json(run.result_file)) if view.state.is_final else {},
        view.cause.value,
        view.reason,
        view.job_id,
        len(view.attempts),
    )


def flat(value: Any) -> dict[str, Any]:
    """The columns of a returned value: ``result.NAME`` for the scalars of an object, ``result`` for one."""
    if isinstance(value, dict):
        return {f"result.{name}": item for name, item in value.items() if _scalar(item)}
    return {"result": value} if value is not None and _scalar(value) else {}


def cells(row: Row) -> dict[str, Any]:
    """Column → value: arguments by name, metrics by name (``metric.NAME`` if an argument has it), results."""
    logged = {
        f"metric.{name}" if name in row.arguments else name: value for name, value in row.metrics.items()
    }
    return {**row.arguments, **logged, **row.result}


def columns(rows: Sequence[Row], *, every: bool = False) -> list[str]:
    """The columns that tell the elements apart, then metrics and results; ``every``: all arguments."""
    arguments = [row.arguments for row in rows if row.state != "MISSING"]
    names = list(dict.fromkeys(name for each in arguments for name in each))
    shown = names if every else grid.varied(arguments)
    hidden = set(names) - set(shown)
    found = dict.fromkeys(name for row in rows for name in cells(row))
    return [*shown, *(name for name in found if name not in shown and name not in hidden)]


def ordered(rows: Sequence[Row], by: str, *, descending: bool = False) -> list[Row]:
    """``rows`` by a column; ``acc`` also finds ``result.acc``. Raises UsageError if no row has it."""
    named = [(row, cells(row)) for row in rows]
    known = dict.fromkeys(name for _, found in named for name in found)
    column = next((name for name in (by, f"result.{by}", f"metric.{by}") if name in known), None)
    if column is None:
        raise UsageError(
            f"no element has {one_line(by)!r} yet",
            hint=f"there are: {', '.join(map(one_line, known)) or 'none'}",
        )
    good = [(row, found[column]) for row, found in named if _sortable(found.get(column))]
    numbers = [item for item in good if not isinstance(item[1], str)]
    texts = [item for item in good if isinstance(item[1], str)]
    for group in (numbers, texts):
        group.sort(key=lambda item: item[1], reverse=descending)
    placed = [row for row, _ in (*numbers, *texts)]
    return [*placed, *(row for row in rows if row not in placed)]


def _scalar(value: Any) -> bool:
    return isinstance(value, (int, float, str))


def _sortable(value: Any) -> bool:
    return _scalar(value) and not (isinstance(value, float) and math.isnan(value))
