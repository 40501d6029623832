"""`hpcpools runs`, `show`: looking at trainings (and, for `show`, at short jobs)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from hpcpools.cli import complete
from hpcpools.cli.output import (
    ago,
    fresh_option,
    json_option,
    load_config,
    note,
    show_facts,
    show_json,
    show_table,
)
from hpcpools.runs.token import names_pipeline

if TYPE_CHECKING:
    from hpcpools.pipeline.evaluate import Evaluation
    from hpcpools.runs.directory import RunDirectory
    from hpcpools.runs.telemetry import Usage
    from hpcpools.runs.view import View


@click.command()
@click.option("--state", "states", multiple=True, help="Only runs in this state; may be repeated.")
@click.option("--limit", "-n", default=20, show_default=True, type=click.IntRange(1, 100_000))
@fresh_option
@json_option
def runs(states: tuple[str, ...], limit: int, fresh: bool, as_json: bool) -> None:
    """List trainings, newest first."""
    from hpcpools.errors import HpcpoolsError
    from hpcpools.maintenance.metrics import summary
    from hpcpools.runs import directory
    from hpcpools.runs.directory import RunDirectory
    from hpcpools.runs.view import read_view
    from hpcpools.training import watch

    config = load_config()
    seen = watch.current(config, fresh=fresh)
    as_of, error = seen.as_of, seen.error
    live = {view.token: view for view in seen.views}  # confirmed later than their files tell
    wanted = {state.upper() for state in states}
    rows: list[dict[str, Any]] = []
    root = config.root
    for token in directory.tokens(root):
        try:
            view = live.get(token) or read_view(RunDirectory(root, token))
            if not wanted or view.state.value in wanted:
                rows.append(summary(config, view))
        except HpcpoolsError as problem:
            note(str(problem))
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
@click.argument("name", shell_complete=complete.works)
@fresh_option
@json_option
def show(name: str, fresh: bool, as_json: bool) -> None:
    """Everything known of a run (hp-…), sweep (hs-…), pipeline (hq-…) or short job."""
    config = load_config()
    if name.startswith("hs-"):
        from hpcpools.cli.sweeps import show_sweep

        show_sweep(config, name, fresh=fresh, as_json=as_json)
        return
    if names_pipeline(name):
        from hpcpools.cli.pipeline import show_pipeline

        show_pipeline(config, name, as_json=as_json)
        return
    if not name.startswith("hp-"):
        from hpcpools.cli.short import show_job

        show_job(config, name, as_json)
        return
    from hpcpools import atomic
    from hpcpools.cli.reproduce import code_facts, code_line
    from hpcpools.maintenance.metrics import summary
    from hpcpools.runs import checkpoints, telemetry, usage
    from hpcpools.training import watch
    from hpcpools.training.handle import open_handle

    handle = open_handle(config, name)
    seen = watch.current(config, fresh=fresh)
    view = next((each for each in seen.views if each.token == handle.token), None) or handle.view()
    row = summary(config, view)
    attempts = [
        {
            "number": attempt.number,
            "job_id": attempt.job_id,
            "restart": attempt.restart,
            "node": attempt.where,
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
    until = view.since if view.state.is_final else time.time()
    gpu_use = telemetry.usage(
        usage.closed(handle.directory, view, time.time()), view.request.resources.all_gpus, until
    )
    evaluations = _evaluations(handle.directory)
    if as_json:
        more = {"attempts": attempts, "checkpoints": kept, "verdict": verdict, "path": handle.directory.path}
        more["evaluations"] = [vars(evaluation) for evaluation in evaluations]
        more["code"] = code_facts(handle.directory, view.request)
        more["reproduces"] = view.request.reproduces
        more["gpu"] = vars(gpu_use)
        more["sweep"] = view.request.sweep
        show_json({**row, **more, "arguments": view.request.arguments, "slurm_as_of": seen.as_of})
        return
    resources = view.request.resources
    nodes = f"{resources.nodes} exclusive nodes, each" if resources.nodes > 1 else "an exclusive node"
    show_facts(
        [
            ("run", row["run"] + (f"  ({row['label']})" if row["label"] else "")),
            ("state", f"{row['state']} since {ago(row['since'])}, as of {ago(row['as_of'])}"),
            ("cause", row["cause"]),
            ("reason", row["reason"]),
            ("slurm says", row["detail"]),
            ("exit code", row["exit_code"]),
            ("restarts", _restarts(handle.directory, view)),
            ("retryable", None if verdict is None else ("yes" if verdict["retryable"] else "no")),
            ("what", row["what"]),
            ("sweep", view.request.sweep),
            ("arguments", " ".join(f"{key}={value!r}" for key, value in view.request.arguments.items())),
            ("code", code_line(handle.directory, view.request)),
            ("reproduces", view.request.reproduces),
            ("engine", row["engine"] + (f", partition {row['partition']}" if row["partition"] else "")),
            ("resources", f"{nodes} with {resources.gpus} GPUs, {resources.minutes} min"),
            ("job", row["job_id"]),
            ("step", steps(row)),
            ("metrics", _numbers(row["metrics"])),
            ("gpus", _gpu_use(gpu_use)),
            ("directory", handle.directory.path),
        ]
    )
    if view.attempts:
        click.echo()
        show_table(
            ["ATTEMPT", "JOB", "NODE", "STARTED", "ENDED", "OUTCOME", "EXIT", "CAUSE"],
            [
                [a.number, a.job_id, a.where, ago(a.started), ago(a.ended) if a.ended else "-"]
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
    if evaluations:
        click.echo()
        show_table(
            ["EVALUATED", "TASK", "STATE", "RESULT"],
            [[e.step, e.task, e.ended or "waiting", e.reason or e.result] for e in evaluations],
        )
    if seen.error:
        note(f"Slurm does not answer ({seen.error}); the state is as of {ago(seen.as_of)}")


def _evaluations(run: RunDirectory) -> list[Evaluation]:
    if not (run.path / "evaluations").is_dir():
        return []
    from hpcpools.pipeline import evaluate

    return evaluate.read(run)


def _restarts(run: RunDirectory, view: View) -> str:
    """``preemption 1/50``: what was used of the budgets."""
    from hpcpools.runs import restarts

    facts = [run.submission(number) for number in range(view.submission + 1)]
    used = restarts.used(facts, view.attempts)
    budgets = view.request.restarts
    return ", ".join(f"{kind} {n}/{restarts.budget_of(budgets, kind)}" for kind, n in sorted(used.items()))


def _gpu_use(use: Usage) -> str:
    if not use.held:
        return ""
    used = "nothing measured" if use.used is None else f"{use.used:.2f} GPU-hours used"
    return f"{use.held:.2f} GPU-hours held, {used}" + (f"; {use.verdict}" if use.verdict else "")


def _numbers(values: dict[str, float]) -> str:
    return "  ".join(f"{name}={value:.4g}" for name, value in values.items())
