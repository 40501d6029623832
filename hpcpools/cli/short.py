"""`hpcpools enqueue`, `queues`, `jobs`, and the short half of `show`."""

from __future__ import annotations

import re
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from hpcpools.cli.output import (
    ago,
    dry_run_option,
    json_option,
    load_config,
    note,
    show_facts,
    show_json,
    show_table,
)

if TYPE_CHECKING:
    from hpcpools.config import Config


@click.command(epilog="Example: hpcpools enqueue tasks:run_evaluation ckpt=runs/a.pt --wait")
@click.argument("task")
@click.argument("arguments", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--queue", "-q", help="Another queue than the task's own.")
@click.option("--front", is_flag=True, help="Ahead of the jobs that wait already.")
@click.option("--timeout", metavar="TIME", help="The longest it may run.")
@click.option("--retries", type=click.IntRange(0, 100), help="How often it is tried again after a failure.")
@click.option("--wait", "wait_", is_flag=True, help="Wait for the end and print the result.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@dry_run_option
def enqueue(
    task: str,
    arguments: tuple[str, ...],
    queue: str | None,
    front: bool,
    timeout: str | None,
    retries: int | None,
    wait_: bool,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Give TASK (package.module:function) to the workers; prints the job's id."""
    from hpcpools import api, catalog, textsafe
    from hpcpools.services import autostart

    config = load_config()
    named = textsafe.json_arguments(textsafe.key_values(arguments))
    entry = catalog.load(config).short(textsafe.callable_name(task))
    catalog.check_arguments(entry, named)
    if dry_run:
        click.echo(f"would enqueue {entry.name} {named} on {queue or entry.queue}")
        return
    autostart.for_short(config, note)
    job = api.enqueue(
        entry.name,
        named,
        config=config,
        queue=queue,
        at_front=front,
        timeout=timeout,
        retries=retries,
    )
    if wait_:
        note(job.id)
        value = job.result()
        show_json({"job": job.id, "state": job.state, "result": value} if as_json else value)
    elif as_json:
        show_json({"job": job.id, "state": job.state})
    else:
        click.echo(job.id)


@click.command()
@json_option
def queues(as_json: bool) -> None:
    """Depth and age of every queue, the training queue among them."""
    config = load_config()
    rows = queue_rows(config)
    if as_json:
        show_json(rows)
        return
    show_table(
        ["QUEUE", "SERVED BY", "WAITING", "OLDEST", "RUNNING", "FAILED", "SCHEDULED"],
        [
            [
                row["queue"],
                row["served_by"],
                row["waiting"],
                None if row["oldest"] is None else ago(time.time() - row["oldest"]),  # type: ignore[operator]
                row["running"],
                row["failed"],
                row["scheduled"],
            ]
            for row in rows
        ],
    )


def queue_rows(config: Config) -> list[dict[str, object]]:
    """The training queue from the run directories, the short queues from Redis."""
    from hpcpools.runs import directory
    from hpcpools.runs.directory import RunDirectory
    from hpcpools.runs.states import RunState
    from hpcpools.runs.view import read_view
    from hpcpools.short import views
    from hpcpools.training import engine

    root = config.root
    live = [read_view(RunDirectory(root, token)) for token in directory.live_tokens(root)]
    waiting = [view.request.created for view in live if view.state is not RunState.RUNNING]
    where = engine.choose(config)
    rows: list[dict[str, object]] = [
        {
            "queue": "training",
            "served_by": "Slurm" if where == "slurm" else "the local slot",
            "waiting": len(waiting),
            "oldest": time.time() - min(waiting) if waiting else None,
            "running": len(live) - len(waiting),
            "failed": None,
            "scheduled": None,
        }
    ]
    for queue in views.queues(config):
        facts = asdict(queue)
        rows.append({"queue": facts.pop("name"), "served_by": f"{config.short.workers} workers", **facts})
    return rows


@click.command()
@click.option("--queue", "-q", help="Only this queue.")
@click.option("--state", help="Only this state: queued, started, finished, failed, scheduled, deferred.")
@click.option("--limit", "-n", default=20, show_default=True, type=click.IntRange(1, 100_000))
@json_option
def jobs(queue: str | None, state: str | None, limit: int, as_json: bool) -> None:
    """List short jobs, newest first."""
    from hpcpools.short import views

    found = views.jobs(load_config(), queue=queue, state=state, limit=limit)
    if as_json:
        show_json([asdict(job) for job in found])
        return
    show_table(
        ["JOB", "STATE", "QUEUE", "CALL", "ENQUEUED", "WAITED", "RAN"],
        [
            [job.id, job.state, job.queue, job.call, ago(job.enqueued)]
            + [_span(job.enqueued, job.started), _span(job.started, job.ended)]
            for job in found
        ],
        empty="no short jobs; `hpcpools enqueue` makes one",
    )


def show_job(config: Config, job_id: str, as_json: bool) -> None:
    """`hpcpools show JOB`."""
    from hpcpools.errors import NotFoundError
    from hpcpools.short import views
    from hpcpools.textsafe import one_line

    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", job_id):
        raise NotFoundError(
            f"{one_line(job_id)!r} is neither a run nor a short job", hint="`hpcpools runs`, `hpcpools jobs`"
        )
    detail = views.show(config, job_id)
    if as_json:
        show_json(asdict(detail))
        return
    job = detail.job
    show_facts(
        [
            ("job", job.id),
            ("state", job.state),
            ("reason", detail.reason),
            ("task", detail.task),
            ("arguments", " ".join(f"{name}={value!r}" for name, value in detail.arguments.items())),
            ("queue", job.queue),
            ("enqueued", ago(job.enqueued) if job.enqueued else None),
            ("waited", _span(job.enqueued, job.started)),
            ("ran", _span(job.started, job.ended)),
            ("timeout", None if detail.timeout is None else f"{detail.timeout:g} s"),
            ("retries left", detail.retries_left or None),
            ("worker deaths", detail.deaths or None),
            ("worker", job.worker),
            ("result", None if detail.result is None else repr(detail.result)),
        ]
    )
    if detail.trace:
        click.echo()
        show_facts([("", detail.trace)])


def _span(begin: float | None, end: float | None) -> str:
    if begin is None or end is None:
        return ""
    seconds = max(0.0, end - begin)
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
