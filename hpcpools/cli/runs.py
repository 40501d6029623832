"""`hpcpools runs`, `show`, `logs`: looking at trainings (and, for `show`, at short jobs)."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from hpcpools.cli.output import ago, json_option, load_config, note, show_facts, show_json, show_table

if TYPE_CHECKING:
    from hpcpools.config import Config

FRESH = 10.0  # seconds: the oldest answer of Slurm that a reading command is content with


def look(config: Config, max_age: float = FRESH) -> tuple[float | None, str]:
    """Bring the live runs up to date; (when Slurm last answered, why it did not)."""
    from hpcpools.training import engine, watch

    if not config.root.is_dir():
        return None, ""
    runner = engine.runner(config)
    seen = watch.refresh(config, runner if runner.available() else None, max_age=max_age)
    return seen.as_of, seen.error


@click.command()
@click.option("--state", "states", multiple=True, help="Only runs in this state; may be repeated.")
@click.option("--limit", "-n", default=20, show_default=True, type=click.IntRange(1, 100_000))
@json_option
def runs(states: tuple[str, ...], limit: int, as_json: bool) -> None:
    """List trainings, newest first."""
    from hpcpools.errors import HpcpoolsError
    from hpcpools.maintenance.metrics import summary
    from hpcpools.runs import directory
    from hpcpools.runs.directory import RunDirectory
    from hpcpools.runs.view import read_view

    config = load_config()
    as_of, error = look(config)
    wanted = {state.upper() for state in states}
    rows: list[dict[str, Any]] = []
    for token in directory.tokens(config.root):
        try:
            row = summary(config, read_view(RunDirectory(config.root, token)))
        except HpcpoolsError as problem:
            note(str(problem))
            continue
        if not wanted or row["state"] in wanted:
            rows.append(row)
        if len(rows) >= limit:
            break
    if as_json:
        show_json({"runs": rows, "slurm_as_of": as_of, "slurm_error": error})
        return
    show_table(
        ["RUN", "STATE", "SINCE", "WHAT", "ENGINE", "JOB", "NODE", "STEP", "CAUSE"],
        [
            [
                row["run"],
                row["state"],
                ago(row["since"]),
                row["label"] or row["what"],
                row["engine"],
                row["job_id"],
                row["node"],
                steps(row),
                row["cause"] or row["reason"],
            ]
            for row in rows
        ],
        empty="no runs yet; `hpcpools train` makes one",
    )
    if error:
        note(f"Slurm does not answer ({error}); states are as of {ago(as_of)}")


def steps(row: dict[str, Any]) -> str:
    """``120/1000`` or ``120``."""
    if row["step"] is None:
        return ""
    return f"{row['step']}/{row['total']}" if row["total"] else str(row["step"])


@click.command()
@click.argument("name", metavar="RUN|JOB")
@json_option
def show(name: str, as_json: bool) -> None:
    """Everything known of one run or short job."""
    config = load_config()
    if not name.startswith("hp-"):
        from hpcpools.cli.short import show_job

        show_job(config, name, as_json)
        return
    from hpcpools import atomic
    from hpcpools.maintenance.metrics import summary
    from hpcpools.runs import checkpoints
    from hpcpools.training.handle import open_handle

    handle = open_handle(config, name)
    as_of, error = look(config)
    view = handle.view()
    row = summary(config, view)
    attempts = [
        {
            "number": attempt.number,
            "job_id": attempt.job_id,
            "restart": attempt.restart,
            "node": attempt.node,
            "started": attempt.started,
            "ended": attempt.ended,
            "outcome": attempt.outcome or "running",
            "exit_code": attempt.exit_code,
            "cause": attempt.cause.value,
        }
        for attempt in view.attempts
    ]
    found = checkpoints.complete(handle.directory.checkpoints)
    kept = [
        {"step": item.step, "bytes": item.size, "at": item.at, "metrics": item.metrics, "pinned": item.pinned}
        for item in found
    ]
    verdict = atomic.read_json(handle.directory.verdict_file)
    if as_json:
        more = {"attempts": attempts, "checkpoints": kept, "verdict": verdict, "path": handle.directory.path}
        show_json({**row, **more, "arguments": view.request.arguments, "slurm_as_of": as_of})
        return
    resources = view.request.resources
    show_facts(
        [
            ("run", row["run"] + (f"  ({row['label']})" if row["label"] else "")),
            ("state", f"{row['state']} since {ago(row['since'])}, as of {ago(row['as_of'])}"),
            ("cause", row["cause"]),
            ("reason", row["reason"]),
            ("slurm says", row["detail"]),
            ("exit code", row["exit_code"]),
            ("retryable", None if verdict is None else ("yes" if verdict["retryable"] else "no")),
            ("what", row["what"]),
            ("arguments", " ".join(f"{key}={value!r}" for key, value in view.request.arguments.items())),
            ("engine", row["engine"] + (f", partition {row['partition']}" if row["partition"] else "")),
            ("resources", f"{resources.gpus} GPUs, {resources.minutes} min, exclusive node"),
            ("job", row["job_id"]),
            ("step", steps(row)),
            ("metrics", _numbers(row["metrics"])),
            ("directory", handle.directory.path),
        ]
    )
    if view.attempts:
        click.echo()
        show_table(
            ["ATTEMPT", "JOB", "NODE", "STARTED", "ENDED", "OUTCOME", "EXIT", "CAUSE"],
            [
                [a.number, a.job_id, a.node, ago(a.started), ago(a.ended) if a.ended else "-"]
                + [a.outcome or "running", a.exit_code, a.cause.value]
                for a in view.attempts
            ],
        )
    if found:
        click.echo()
        show_table(
            ["CHECKPOINT", "MIB", "WRITTEN", "METRICS", "PINNED"],
            [
                [c.step, f"{c.size / 2**20:.1f}", ago(c.at), _numbers(c.metrics), "yes" if c.pinned else ""]
                for c in found
            ],
        )
    if error:
        note(f"Slurm does not answer ({error}); the state is as of {ago(as_of)}")


def _numbers(values: dict[str, float]) -> str:
    return "  ".join(f"{name}={value:.4g}" for name, value in values.items())


@click.command()
@click.argument("run")
@click.option("--follow", "-f", is_flag=True, help="Go on until the run ends.")
@click.option("--attempt", type=click.IntRange(1), help="The attempt's number; the newest if left out.")
@click.option("--stderr", is_flag=True, help="The error log only.")
@click.option("--tail", "-n", type=click.IntRange(0), help="Only the last N lines.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per piece of text read.")
def logs(run: str, follow: bool, attempt: int | None, stderr: bool, tail: int | None, as_json: bool) -> None:
    """Print the log of a run: each attempt has its own."""
    from hpcpools.training.handle import open_handle
    from hpcpools.training.logs import LogReader

    config = load_config()
    handle = open_handle(config, run)
    reader = LogReader(handle.directory, attempt, ("log.err",) if stderr else ("log.out", "log.err"))
    show = partial(_print_json, handle.token) if as_json else _print
    show(reader.read(), tail)
    waiting = False
    while follow:
        view = handle.view(max_age=15.0)
        text = reader.read()
        show(text, None)
        if view.state.is_final and not text:
            note(
                f"{handle.token} {view.state.value}" + (f" ({view.cause.value})" if view.cause.value else "")
            )
            return
        if not view.attempts and not waiting:
            waiting = True
            note(f"{view.state.value}: {view.reason or 'not started yet'}")
        time.sleep(0.3)
    if not handle.view().attempts:
        note(f"{handle.token} is {handle.state.value}: no attempt has started")


def _print_json(run: str, text: str, tail: int | None) -> None:
    if text:
        lines = text.splitlines()
        click.echo(json.dumps({"run": run, "lines": lines if tail is None else lines[len(lines) - tail :]}))


def _print(text: str, tail: int | None) -> None:
    from hpcpools.textsafe import escape

    if tail is not None:
        text = "".join(text.splitlines(keepends=True)[-tail:] if tail else [])
    if text:
        # Progress bars write bare carriage returns; in a log each is a new line.
        click.echo(escape(text.replace("\r\n", "\n").replace("\r", "\n")), nl=False)
