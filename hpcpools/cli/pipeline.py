"""`hpcpools pipeline …`: chains of stages over both pools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hpcpools.cli import complete
from hpcpools.cli.output import (
    ago,
    dry_run_option,
    json_option,
    load_config,
    note,
    on_terminal,
    show_facts,
    show_json,
    show_table,
)
from hpcpools.textsafe import one_line

if TYPE_CHECKING:
    from hpcpools.config import Config
    from hpcpools.pipeline.advance import Snapshot
    from hpcpools.pipeline.record import PipelineRecord


@click.group()
def pipeline() -> None:
    """Stages over both pools, each started when those before it have ended."""


@pipeline.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--wait", "wait_", is_flag=True, help="Wait for the end; exit 0 only if it completed.")
@dry_run_option
@json_option
def run(file: str, wait_: bool, dry_run: bool, as_json: bool) -> None:
    """Check the pipeline in FILE (TOML) and start it; prints its id."""
    from pathlib import Path

    from hpcpools import compose
    from hpcpools.pipeline import advance, definition

    config = load_config()
    asked = definition.read(Path(file))
    if dry_run:
        pools = advance.check(config, asked, file)
        rows = [
            {
                "stage": name,
                "pool": pools[name],
                "task": stage.task,
                "after": sorted(definition.edges(stage)),
                "runs": len(stage.points()),
                "max_parallel": stage.max_parallel,
                "on_failure": stage.on_failure,
            }
            for name, stage in ((name, asked.stages[name]) for name in pools)
        ]
        if as_json:
            show_json({"name": asked.name, "stages": rows, "dry_run": True})
        else:
            show_table(
                ["STAGE", "POOL", "TASK", "AFTER", "RUNS", "ON FAILURE"],
                [
                    [r["stage"], r["pool"], r["task"], ", ".join(r["after"]), r["runs"], r["on_failure"]]  # type: ignore[arg-type]
                    for r in rows
                ],
            )
        return
    started = compose.start(config, asked, str(Path(file).absolute()), note)
    if as_json and not wait_:
        show_json(facts(started.record, started.view()))
    else:
        click.echo(started.id, err=as_json)
    if wait_:
        _wait(started.record, None, as_json)


@pipeline.command()
@click.argument("name", metavar="[ID]", required=False, shell_complete=complete.pipelines)
@json_option
def status(name: str | None, as_json: bool) -> None:
    """All pipelines, or every stage of one."""
    from hpcpools.pipeline import advance, record

    config = load_config()
    if name:
        show_pipeline(config, name, as_json=as_json)
        return
    rows = []
    for each in record.ids(config.root):
        found = record.PipelineRecord(config.root, each)
        rows.append(facts(found, advance.snapshot(found)))
    if as_json:
        show_json({"pipelines": rows})
        return
    show_table(
        ["PIPELINE", "STATE", "STARTED", "NAME", "STAGES"],
        [
            [row["id"], row["state"], ago(row["created"]), row["name"]]
            + [", ".join(f"{stage['stage']} {stage['state']}" for stage in row["stages"])]
            for row in rows
        ],
        empty="no pipelines yet; `hpcpools pipeline run FILE` starts one",
    )


@pipeline.command()
@click.argument("name", metavar="ID", shell_complete=complete.pipelines)
@click.option("--timeout", metavar="TIME", help="Give up after this long (exit 6); the pipeline goes on.")
@json_option
def wait(name: str, timeout: str | None, as_json: bool) -> None:
    """Bring the pipeline forward until its end; exit 5 if it did not complete."""
    from hpcpools import durations
    from hpcpools.pipeline import record

    config = load_config()
    limit = None if timeout is None else durations.seconds(timeout)
    _wait(record.open_record(config.root, name), limit, as_json)


@pipeline.command()
@click.argument("name", metavar="ID", shell_complete=complete.pipelines)
@dry_run_option
@json_option
def cancel(name: str, dry_run: bool, as_json: bool) -> None:
    """Start nothing more, and end the stages that run."""
    from hpcpools.pipeline import advance, record

    config = load_config()
    found = record.open_record(config.root, name)
    _show(found, advance.snapshot(found) if dry_run else advance.cancel(config, found), as_json, dry_run)


@pipeline.command()
@click.argument("name", metavar="ID", shell_complete=complete.pipelines)
@click.option("--from", "stage", default="", metavar="STAGE", help="This stage and all that follow it.")
@dry_run_option
@json_option
def retry(name: str, stage: str, dry_run: bool, as_json: bool) -> None:
    """Try again what did not succeed, and what waited for it."""
    from hpcpools.pipeline import advance, record

    config = load_config()
    found = record.open_record(config.root, name)
    if dry_run:
        chosen = advance.to_retry(advance.snapshot(found), stage)
        if as_json:
            show_json({"id": found.id, "stages": chosen, "dry_run": True})
        else:
            click.echo(f"would try again: {', '.join(chosen)}")
        return
    _show(found, advance.retry(config, found, stage), as_json)


@pipeline.command()
@click.argument("name", metavar="ID", shell_complete=complete.pipelines)
@json_option
def explain(name: str, as_json: bool) -> None:
    """Why each stage waits, runs or failed, and what to do next."""
    from hpcpools.pipeline import advance, explain, record

    config = load_config()
    found = record.open_record(config.root, name)
    seen = advance.snapshot(found)
    rows = explain.explain(config, found, seen)
    if as_json:
        show_json({"id": found.id, "state": seen.state, "stages": rows})
        return
    click.echo(f"{found.id}  {seen.state}")
    for row in rows:
        show_facts([(f"  {row['stage']}", f"{row['state']}: {row['why']}" if row["why"] else row["state"])])
        if row["next"]:
            show_facts([("    next", row["next"])])


def show_pipeline(config: Config, name: str, *, as_json: bool) -> None:
    """Every stage of one."""
    from hpcpools.pipeline import advance, record

    found = record.open_record(config.root, name)
    _show(found, advance.snapshot(found), as_json)


def facts(record: PipelineRecord, seen: Snapshot) -> dict[str, Any]:
    """A pipeline for ``--json``."""
    from hpcpools.pipeline import explain

    return {
        "id": record.id,
        "name": seen.header.definition.name,
        "file": seen.header.file,
        "created": seen.header.created,
        "state": seen.state,
        "cancelled": seen.cancelled,
        "stages": explain.rows(record, seen),
    }


def _show(record: PipelineRecord, seen: Snapshot, as_json: bool, dry_run: bool = False) -> None:
    shown = facts(record, seen)
    if as_json:
        show_json({**shown, "dry_run": dry_run})
        return
    click.echo(
        f"{'would cancel ' if dry_run else ''}{record.id}  {seen.state}  {one_line(shown['name'])}".rstrip()
    )
    show_table(
        ["  STAGE", "POOL", "STATE", "TRY", "WORK", "WHY"],
        [
            [f"  {row['stage']}", row["pool"], row["state"], row["try"]] + [_work(row), row["why"]]
            for row in shown["stages"]
        ],
    )


def _work(row: dict[str, Any]) -> str:
    names = row["work"]
    if row["sweep"]:
        return f"{row['sweep']} of {len(names)} runs"
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "") if names else ""


def _wait(record: PipelineRecord, timeout: float | None, as_json: bool) -> None:
    from hpcpools.errors import RunFailedError
    from hpcpools.pipeline import advance

    told: dict[str, str] = {}

    def heed(seen: Snapshot, problem: str) -> None:
        for name, standing in seen.standings.items():
            if on_terminal() and told.get(name) != standing.state.value:
                note(f"{name} {standing.state.value} {standing.why}".rstrip())
            told[name] = standing.state.value
        if problem and told.get("") != problem:
            note(problem)
        told[""] = problem

    seen = advance.wait(load_config(), record, timeout, heed)
    _show(record, seen, as_json)
    if seen.state != "COMPLETED":
        raise RunFailedError(f"{record.id} {seen.state}", hint=f"`hpcpools pipeline explain {record.id}`")
