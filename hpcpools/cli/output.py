"""The one voice of the command line: tables and JSON to stdout, notes and progress to stderr.

Commands compute plain values; everything shown passes through ``textsafe`` here.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hpcpools.textsafe import one_line, printable

if TYPE_CHECKING:
    from hpcpools.config import Config

F = TypeVar("F", bound=Callable[..., Any])

COLOURS = {
    "COMPLETED": "green",
    "finished": "green",
    "RUNNING": "cyan",
    "started": "cyan",
    "FAILED": "red",
    "failed": "red",
    "LOST": "red",
    "OUT_OF_MEMORY": "red",
    "TIMEOUT": "yellow",
    "CANCELLED": "yellow",
    "backoff": "red",
}


def json_option(function: F) -> F:
    """``--json`` on a read command."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def fresh_option(function: F) -> F:
    """``--fresh`` on a command that shows the shared answer of Slurm."""
    return click.option("--fresh", is_flag=True, help="Ask Slurm now, at most once in 10 s.")(function)


def dry_run_option(function: F) -> F:
    """``--dry-run`` on a command that submits or deletes."""
    return click.option("--dry-run", is_flag=True, help="Only show what would be done.")(function)


def load_config() -> Config:
    """The configuration the command line names or finds. Raises ConfigError."""
    from pathlib import Path

    from hpcpools import config

    obj = click.get_current_context().find_root().obj or {}
    given = obj.get("config_file")
    return config.load(Path(given).expanduser().absolute() if given else None)


def show_json(value: Any) -> None:
    """One JSON document on stdout; a record is an object of its fields."""
    click.echo(json.dumps(value, indent=2, default=_plain))


def _plain(value: Any) -> Any:
    from msgspec import Struct, structs

    return structs.asdict(value) if isinstance(value, Struct) else str(value)


def show_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], empty: str = "") -> None:
    """Aligned columns; on a terminal, states have their colour."""
    cells = [[one_line(_text(value), 72) for value in row] for row in rows]
    if not cells:
        if empty:
            click.echo(empty)
        return
    columns = [one_line(column, 72) for column in columns]  # a metric's or an argument's name, maybe
    widths = [max(len(column), *(len(row[i]) for row in cells)) for i, column in enumerate(columns)]
    click.echo("  ".join(c.ljust(w) for c, w in zip(columns, widths, strict=True)).rstrip())
    for row in cells:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        styled = [click.style(p, fg=COLOURS.get(c)) for p, c in zip(padded, row, strict=True)]
        click.echo("  ".join(styled).rstrip())


def show_facts(facts: Iterable[tuple[str, Any]]) -> None:
    """``name  value`` lines; empty values are left out."""
    shown = [(name, _text(value)) for name, value in facts if value not in (None, "", [], {})]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        below = "\n" + " " * (width + 2)  # a line in a value must not look like a fact of its own
        lines = printable(value).replace("\n", below)
        click.echo(f"{name.ljust(width)}  {lines}")


def say(text: str) -> None:
    """One line on stdout that holds words of others: of Slurm, of a job, of an error."""
    click.echo(one_line(text, 1000))


def note(text: str) -> None:
    """One line for people, on stderr."""
    click.echo(printable(text), err=True)


def ago(at: float | None) -> str:
    """``12s ago``; ``never`` for None."""
    from hpcpools import durations

    return "never" if not at else f"{durations.age(time.time() - at)} ago"


def due(at: float | None) -> str:
    """``in 12s``, or ``3s late``; ``-`` for None."""
    from hpcpools import durations

    return "-" if at is None else durations.due(at - time.time())


def on_terminal() -> bool:
    """True if progress may be drawn: stderr is a terminal."""
    return sys.stderr.isatty()


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
