"""`hpcpools sweeps`: the table of a sweep's elements, and what acts on whole sweeps."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from hpcpools.cli import complete
from hpcpools.cli.output import (
    ago,
    dry_run_option,
    fresh_option,
    json_option,
    load_config,
    note,
    show_json,
    show_table,
)

if TYPE_CHECKING:
    from hpcpools.config import Config
    from hpcpools.runs.sweeps import SweepDirectory
    from hpcpools.training.results import Row


@click.command()
@click.argument("name", required=False, metavar="[SWEEP]", shell_complete=complete.sweeps)
@click.option("--sort", "by", default="", metavar="NAME", help="By a metric, a result value or an argument.")
@click.option("--desc", "descending", is_flag=True, help="The largest first.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, with all columns.")
@click.option("--retry", is_flag=True, help="Submit the elements that ended without success again.")
@click.option("--limit", "-n", default=20, show_default=True, type=click.IntRange(1, 100_000))
@fresh_option
@json_option
@dry_run_option
def sweeps(
    name: str | None,
    by: str,
    descending: bool,
    as_csv: bool,
    retry: bool,
    limit: int,
    fresh: bool,
    as_json: bool,
    dry_run: bool,
) -> None:
    """List sweeps, newest first; with SWEEP, its elements with arguments, state, metrics and results."""
    from hpcpools.errors import UsageError
    from hpcpools.runs.sweeps import open_sweep

    config = load_config()
    if retry and name is not None:
        _look(config, fresh)
        _retry(config, open_sweep(config.root, name), dry_run, as_json)
    elif name is not None:
        show_sweep(config, name, by, descending=descending, as_csv=as_csv, as_json=as_json, fresh=fresh)
    elif retry or as_csv or by:
        raise UsageError("which sweep?", hint="`hpcpools sweeps` lists them")
    else:
        _look(config, fresh)
        _list(config, limit, as_json)


def _look(config: Config, fresh: bool) -> None:
    from hpcpools.training import watch

    seen = watch.current(config, fresh=fresh)
    if seen.error:
        note(f"Slurm does not answer ({seen.error}); states are as of {ago(seen.as_of)}")


def show_sweep(
    config: Config,
    name: str,
    by: str = "",
    *,
    descending: bool = False,
    as_csv: bool = False,
    as_json: bool = False,
    fresh: bool = False,
) -> None:
    """The elements of one sweep."""
    from hpcpools.runs.sweeps import open_sweep
    from hpcpools.training import results

    place = open_sweep(config.root, name)
    content = place.read()
    _look(config, fresh)
    rows = results.read_rows(config.root, content)
    rows = results.ordered(rows, by, descending=descending) if by else rows
    if as_json:
        elements = [dataclasses.asdict(row) for row in rows]
        show_json({"sweep": place.id, "definition": _plain(content.definition), "elements": elements})
    elif as_csv:
        _csv(rows)
    else:
        _table(rows)


def _plain(definition: Any) -> Any:
    import msgspec

    return msgspec.to_builtins(definition)


def _list(config: Config, limit: int, as_json: bool) -> None:
    from hpcpools.errors import HpcpoolsError
    from hpcpools.runs import sweeps as records
    from hpcpools.training import results

    rows: list[dict[str, Any]] = []
    for one in records.ids(config.root)[:limit]:
        try:
            content = records.SweepDirectory(config.root, one).read()
        except HpcpoolsError as problem:
            note(str(problem))
            continue
        states = Counter(row.state for row in results.read_rows(config.root, content))
        rows.append(
            {
                "sweep": one,
                "created": content.created,
                "label": content.label,
                "what": content.definition.what,
                "runs": len(content.tokens),
                "states": dict(states),
            }
        )
    if as_json:
        show_json(rows)
        return
    show_table(
        ["SWEEP", "CREATED", "WHAT", "RUNS", "STATES"],
        [
            [row["sweep"], ago(row["created"]), row["label"] or row["what"], row["runs"]]
            + [_counts(row["states"])]
            for row in rows
        ],
        empty="no sweeps yet; `hpcpools sweep` makes one",
    )


def _counts(states: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(states.items()))


def _table(rows: Sequence[Row]) -> None:
    from hpcpools.training import results

    names = results.columns(rows)
    show_table(
        ["#", "RUN", "STATE", *names, "STEP", "CAUSE"],
        [
            [row.number, row.run, row.state, *(results.cells(row).get(name) for name in names)]
            + [_steps(row), row.cause or row.reason]
            for row in rows
        ],
    )


def _steps(row: Row) -> str:
    from hpcpools.cli.runs import steps

    return steps({"step": row.step, "total": row.total})


def _csv(rows: Sequence[Row]) -> None:
    import csv
    import io

    from hpcpools.textsafe import one_line
    from hpcpools.training import results

    names = results.columns(rows, every=True)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["number", "run", "state", *map(one_line, names), "step", "cause"])
    for row in rows:
        found = results.cells(row)
        values = [row.number, row.run, row.state, *(found.get(name) for name in names), row.step, row.cause]
        writer.writerow([one_line(value) if isinstance(value, str) else value for value in values])
    click.echo(out.getvalue(), nl=False)


def _retry(config: Config, place: SweepDirectory, dry_run: bool, as_json: bool) -> None:
    from hpcpools.training import sweep as sweeping

    views = sweeping.failed(config, place)
    done = [view.token for view in views]
    if not dry_run and views:
        done = sweeping.retry(config, place, views, note)
        if views[0].request.engine == "local":
            from hpcpools.services import autostart

            autostart.for_training(config, note)
    if as_json:
        show_json({"sweep": place.id, "retried": done, "dry_run": dry_run})
        return
    for view in views:
        if view.token in done:
            what = f"{view.token}  {view.state.value}  {view.cause.value}"
            click.echo(f"would retry {what}" if dry_run else what)
    note(f"submitted again: {len(done)}" if not dry_run else f"would be submitted again: {len(done)}")


def show_results(config: Config, name: str, timeout: float | None, *, as_json: bool) -> None:
    """What a sweep's runs returned, waiting for it up to ``timeout`` seconds (None: as long as it takes).

    Raises RunFailedError if one did not succeed, else WaitTimeoutError if one has not ended; shown first.
    """
    from hpcpools.errors import RunFailedError, WaitTimeoutError
    from hpcpools.runs.sweeps import open_sweep
    from hpcpools.training.sweephandle import SweepHandle

    handle = SweepHandle(config, open_sweep(config.root, name))
    late: WaitTimeoutError | None = None
    try:
        handle.wait(timeout)
    except WaitTimeoutError as error:
        late = error
    rows = handle.rows()
    if as_json:
        show_json(
            [
                {
                    "run": row.run,
                    "state": row.state,
                    "arguments": row.arguments,
                    "result": handle.value(row.run) if row.state == "COMPLETED" else None,
                }
                for row in rows
            ]
        )
    else:
        _table(rows)
    if late is not None:
        raise late
    if bad := [row.run for row in rows if row.state != "COMPLETED"]:
        raise RunFailedError(
            f"{len(bad)} of {len(rows)} did not succeed", hint=f"`hpcpools sweeps {handle.id} --retry`"
        )


def cancel_sweeps(config: Config, names: Sequence[str], *, dry_run: bool) -> list[tuple[str, str]]:
    """Cancel all runs of whole sweeps with one scancel; each run and its state."""
    from hpcpools.runs.directory import RunDirectory
    from hpcpools.runs.view import read_view
    from hpcpools.training import cancel

    runs = [RunDirectory(config.root, token) for token in with_runs_of_sweeps(config, names)]
    views = [read_view(run) for run in runs] if dry_run else cancel.cancel(config, runs, whole_arrays=True)
    return [(view.token, view.state.value) for view in views]


def with_runs_of_sweeps(config: Config, names: Sequence[str]) -> list[str]:
    """``names`` with each sweep replaced by its runs."""
    from hpcpools.runs.sweeps import open_sweep

    return [
        token
        for name in names
        for token in (open_sweep(config.root, name).read().tokens if name.startswith("hs-") else (name,))
    ]
