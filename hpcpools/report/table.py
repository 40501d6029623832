"""The tables of a report, each with its columns: what the HTML file shows and the CSV files hold.

Refuses cells that a spreadsheet would run: text that begins like a formula has an apostrophe before it.
"""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcpools import atomic
from hpcpools.report.facts import Report
from hpcpools.runs.usage import Hours
from hpcpools.textsafe import one_line

Cell = str | int | float | None
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Table:
    """``name`` is the CSV file's; times are epoch seconds or UTC texts, lengths seconds, None is unknown."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def tables(report: Report) -> tuple[Table, ...]:
    """All of them."""
    hours = ("held_hours", "measured_hours", "used_hours", "unmeasured_hours")
    return (
        Table(
            "runs",
            ("run", "name", "state", "cause", "partition", "gpus", "created", "started", "ended")
            + ("attempts", "waited", *hours),
            tuple(
                (run.run, run.name, run.state, run.cause, run.partition, run.gpus)
                + (_utc(run.created), _utc(run.started), _utc(run.ended), run.attempts, run.waited)
                + spent(run.hours)
                for run in report.runs
            ),
        ),
        Table(
            "states",
            ("state", "runs", *hours),
            tuple((hold.state, hold.runs, *spent(hold.hours)) for hold in report.states),
        ),
        Table(
            "waits",
            ("partition", "runs", "p50", "p95", "longest"),
            tuple((wait.partition, wait.runs, wait.p50, wait.p95, wait.longest) for wait in report.waits),
        ),
        Table(
            "short_tasks",
            ("kind", "name", "count", "mean", "p50_at_most", "p95_at_most"),
            tuple(
                (task.kind, task.name, task.count, task.mean, _known(task.p50), _known(task.p95))
                for task in report.tasks
            ),
        ),
        Table(
            "failures",
            ("group", "count", "pools", "tasks", "nodes", "first", "last", "what"),
            tuple(
                (group.group, len(group.failures), group.pools, " ".join(group.tasks), " ".join(group.nodes))
                + (_utc(group.failures[0].at), _utc(group.failures[-1].at), group.what)
                for group in report.failures
            ),
        ),
        Table(
            "timeline",
            ("begin", "gpus_held", "short_finished", "short_failed"),
            tuple((_utc(each.begin), each.gpus, each.finished, each.failed) for each in report.timeline),
        ),
    )


def spent(hours: Hours) -> tuple[Cell, ...]:
    """Held, measured, used and unmeasured; used is None where nothing was measured."""
    used = hours.used if hours.measured else None
    return (hours.held, hours.measured, used, max(0.0, hours.held - hours.measured))


def write_csv(report: Report, folder: Path) -> list[Path]:
    """One file per table, for the owner only; their paths. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    written = []
    for table in tables(report):
        path = folder / f"{table.name}.csv"
        atomic.write_bytes(path, as_csv(table.columns, table.rows).encode())
        written.append(path)
    return written


def as_csv(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """RFC 4180 with a header; unknown cells are empty."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return out.getvalue()


def _cell(value: Cell) -> Cell:
    if not isinstance(value, str):
        return value
    text = one_line(value, 1000)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _known(value: float) -> float | None:
    return None if math.isinf(value) else value


def _utc(at: float | None) -> str | None:
    return None if at is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
