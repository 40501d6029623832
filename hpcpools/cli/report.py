"""`hpcpools report`, `plot`: what happened, as HTML and CSV; the curves of one run."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpcpools.cli import complete
from hpcpools.cli.output import json_option, load_config, note, show_json

if TYPE_CHECKING:
    from hpcpools.report.facts import Report


@click.command()
@click.option("--since", default="7d", show_default=True, metavar="TIME", help="How far back: 24h, 7d, 4w.")
@click.option("--out", default="report.html", show_default=True, metavar="FILE", help="The HTML file.")
@click.option("--csv", "folder", metavar="DIR", help="Also write the tables as CSV files into DIR.")
@json_option
def report(since: str, out: str, folder: str | None, as_json: bool) -> None:
    """Write what happened in both pools into one HTML file: GPU-hours, waits, durations, failures.

    The file loads nothing from anywhere. With --json the facts are printed, and the HTML file is not written.
    """
    from hpcpools import atomic, durations
    from hpcpools.errors import HpcpoolsError
    from hpcpools.report import facts, html, table
    from hpcpools.training import watch

    config = load_config()
    now = time.time()
    seen = watch.current(config)
    found = facts.read(config, now - durations.seconds(since), now)
    try:
        written = table.write_csv(found, Path(folder)) if folder else []
        if not as_json:
            atomic.write_bytes(Path(out), html.page(found).encode())
            written.insert(0, Path(out))
    except OSError as error:
        raise HpcpoolsError(
            f"cannot write {error.filename}: {error.strerror}", hint="name another place with --out or --csv"
        ) from None
    if as_json:
        show_json(_plain(found))
    else:
        for path in written:
            click.echo(path)
    if seen.error:
        note(f"Slurm does not answer ({seen.error}); what runs is as of its last answer")
    if found.missing:
        note(f"the short pool is missing: {found.missing}")


def _plain(found: Report) -> dict[str, object]:
    """The tables by name, and the span."""
    from hpcpools.report import table

    rows = {
        each.name: [dict(zip(each.columns, row, strict=True)) for row in each.rows]
        for each in table.tables(found)
    }
    return {"since": found.since, "until": found.until, "missing": found.missing, **rows}


@click.command(epilog="Example: hpcpools plot hp-… --metric loss --metric val_loss --out curves.svg")
@click.argument("name", metavar="RUN", shell_complete=complete.runs)
@click.option(
    "--metric", "-m", "metrics", multiple=True, help="Draw this one; may be repeated. Default: loss."
)
@click.option("--out", metavar="FILE", help="Draw into FILE.png or FILE.svg instead of the terminal.")
@json_option
def plot(name: str, metrics: tuple[str, ...], out: str | None, as_json: bool) -> None:
    """Draw what a run logged, over the steps of all its attempts, and how busy its GPUs were."""
    from hpcpools.config import environment
    from hpcpools.errors import NotFoundError
    from hpcpools.report import plot as drawing
    from hpcpools.training.handle import open_handle

    handle = open_handle(load_config(), name)
    found = drawing.panels(handle.directory, metrics)
    if as_json:
        show_json({"run": handle.token, "panels": [asdict(panel) for panel in found]})
        return
    if not found:
        raise NotFoundError(f"{handle.token} has logged nothing yet", hint="run.log(step=…, loss=…) does")
    if out:
        request = handle.view().request
        drawing.file(found, Path(out), f"{handle.token}  {request.label or request.what}")
        click.echo(out)
        return
    width = min(160, shutil.get_terminal_size((80, 24)).columns)
    colours = sys.stdout.isatty() and "NO_COLOR" not in environment()
    click.echo(drawing.terminal(found, width, 18, colours=colours))
