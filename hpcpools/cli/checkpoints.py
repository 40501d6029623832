"""`hpcpools checkpoints`, `export`: what a run has saved, whether it is whole, and how to take it along."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from hpcpools.cli import complete
from hpcpools.cli.output import (
    ago,
    dry_run_option,
    json_option,
    load_config,
    note,
    on_terminal,
    show_json,
    show_table,
)

DAMAGED_EXIT = 5


@click.command()
@click.argument("run", shell_complete=complete.runs)
@click.option("--verify", is_flag=True, help="Read every file and compare it with its digest.")
@json_option
@click.pass_context
def checkpoints(ctx: click.Context, run: str, verify: bool, as_json: bool) -> None:
    """List the checkpoints of a run, oldest first; with --verify exit 5 if one is damaged."""
    from hpcpools.runs import checkpoints as store

    token, folder = _open(run)
    found = store.complete(folder)
    rows: list[dict[str, Any]] = [
        {
            "step": item.step, "bytes": item.size, "at": item.at, "seconds": item.seconds,
            "metrics": item.metrics, "pinned": item.pinned, "fault": None, "path": str(item.path),
        }
        for item in found
    ]  # fmt: skip
    if verify:
        with _progress("verifying", sum(item.size for item in found)) as heed:
            for row, item in zip(rows, found, strict=True):
                row["fault"] = item.fault(heed)
    lost = [str(path) for path in store.unreadable(folder)]
    if as_json:
        show_json({"run": token, "verified": verify, "checkpoints": rows, "unreadable": lost})
    else:
        show_table(
            ["STEP", "SIZE", "AGE", "TOOK", "METRICS", "PINNED", "VALID"],
            [
                [
                    row["step"],
                    _size(row["bytes"]),
                    ago(row["at"]),
                    None if row["seconds"] is None else f"{row['seconds']:.2f}s",
                    " ".join(f"{name}={value:.4g}" for name, value in row["metrics"].items()),
                    "yes" if row["pinned"] else "",
                    "not checked" if row["fault"] is None else row["fault"] or "yes",
                ]
                for row in rows
            ],
            empty="no checkpoints yet",
        )
        for path in lost:
            note(f"{path} is no checkpoint: no readable manifest, or not ours")
    if verify and (lost or any(row["fault"] for row in rows)):
        ctx.exit(DAMAGED_EXIT)


@click.command()
@click.argument("run", shell_complete=complete.runs)
@click.argument("dest", type=click.Path(path_type=Path))
@click.option("--step", type=click.IntRange(0), help="This one, and not the newest valid one.")
@dry_run_option
def export(run: str, dest: Path, step: int | None, dry_run: bool) -> None:
    """Copy a checkpoint, verified, with its manifest, to DEST, a folder that must not exist yet."""
    from hpcpools.runs import export as exporting

    token, folder = _open(run)
    dest = dest.expanduser().absolute()
    exporting.check_destination(dest)
    found = exporting.choose(folder, step)
    what = f"{token} step {found.step} ({_size(found.size)}) to {dest}"
    if dry_run:
        click.echo(f"would copy {what}")
        return
    with _progress("copying", found.size) as heed:
        exporting.copy(found, dest, heed)
    click.echo(f"copied {what}")


def _open(run: str) -> tuple[str, Path]:
    """Token and checkpoint folder of a run, both certainly ours."""
    from hpcpools.runs.directory import check_owned
    from hpcpools.training.handle import open_handle

    directory = open_handle(load_config(), run).directory
    check_owned(directory.path)
    check_owned(directory.checkpoints)
    return directory.token, directory.checkpoints


@contextlib.contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar of bytes on a terminal, nothing elsewhere; yields what hears how many more were read."""
    if not on_terminal():
        yield lambda _bytes: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda more: progress.update(task, advance=more)


def _size(count: float) -> str:
    """``3.2 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
