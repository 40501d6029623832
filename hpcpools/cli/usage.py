"""`hpcpools usage`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from hpcpools.cli.output import json_option, load_config, note, show_json, show_table

if TYPE_CHECKING:
    from hpcpools.runs.usage import By, Hours, Row


@click.command()
@click.option(
    "--since", default="30d", show_default=True, metavar="TIME", help="How far to look back: 24h, 30d, 1w."
)
@click.option(
    "--by",
    type=click.Choice(["user", "run", "partition", "label"]),
    default="user",
    show_default=True,
    help="What the hours are summed for.",
)
@json_option
def usage(since: str, by: By, as_json: bool) -> None:
    """GPU-hours that trainings held, and used by measured utilisation.

    From hpcpools' own records, over all attempts of each run; what began earlier counts from then on.
    """
    from hpcpools import durations
    from hpcpools.errors import HpcpoolsError
    from hpcpools.runs import span
    from hpcpools.runs import usage as counting
    from hpcpools.runs.directory import RunDirectory
    from hpcpools.runs.view import read_view
    from hpcpools.training import watch

    config = load_config()
    now = time.time()
    begin = now - durations.seconds(since)
    watch.current(config)
    found = []
    root = config.root
    for token in span.tokens(root, begin):
        run = RunDirectory(root, token)
        try:
            found.append((run, read_view(run)))
        except HpcpoolsError as problem:
            note(str(problem))
    rows = counting.summed(found, by, begin, now)
    total = counting.Row(
        "total",
        sum(row.runs for row in rows),
        sum(row.attempts for row in rows),
        sum((row.hours for row in rows), counting.Hours()),
    )
    if as_json:
        shown = [{by: row.key, **_facts(row)} for row in rows]
        show_json({"since": begin, "until": now, "by": by, "rows": shown, "total": _facts(total)})
        return
    show_table(
        [by.upper(), "RUNS", "ATTEMPTS", "GPU-HOURS HELD", "USED", "OF MEASURED", "NOT MEASURED"],
        [_cells(row) for row in ([*rows, total] if len(rows) > 1 else rows)],
        empty=f"no training held a GPU in the last {since}",
    )


def _facts(row: Row) -> dict[str, Any]:
    """``used_hours`` is None where nothing was measured."""
    hours = row.hours
    return {
        "runs": row.runs,
        "attempts": row.attempts,
        "held_hours": hours.held,
        "used_hours": hours.used if hours.measured else None,
        "measured_hours": hours.measured,
        "unmeasured_hours": _unmeasured(hours),
    }


def _cells(row: Row) -> list[Any]:
    hours = row.hours
    used = f"{hours.used:.2f}" if hours.measured else "unknown"
    share = f"{100 * hours.used / hours.measured:.0f} %" if hours.measured else "-"
    return [row.key, row.runs, row.attempts, f"{hours.held:.2f}", used, share, f"{_unmeasured(hours):.2f}"]


def _unmeasured(hours: Hours) -> float:
    return max(0.0, hours.held - hours.measured)
