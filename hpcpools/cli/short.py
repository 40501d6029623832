"""`hpcpools enqueue`, `queues`, `jobs`, and the short half of `show`."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

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
@click.option("--front", "at_front", is_flag=True, help="Ahead of the jobs that wait already.")
@click.option("--timeout", metavar="TIME", help="The longest it may run.")
@click.option("--retries", type=click.IntRange(0, 100), help="How often it is tried again after a failure.")
@click.option("--retry-interval", metavar="TIME", multiple=True, help="Wait before the next try.")
@click.option("--result-ttl", metavar="TIME", help="How long its result is kept.")
@click.option("--failure-ttl", metavar="TIME", help="How long its failure is kept.")
@click.option("--depends-on", metavar="JOB", multiple=True, help="Run it once JOB has succeeded.")
@click.option("--allow-failure", is_flag=True, help="With --depends-on: or has failed.")
@click.option("--in", "delay", metavar="TIME", help="Not before so long from now.")
@click.option("--at", metavar="TIME", help="Not before 2027-01-31T06:00, local time unless +00:00 is added.")
@click.option("--job-id", metavar="ID", help="Its id: an equal job is not enqueued twice.")
@click.option("--unique", metavar="ID", help="Its id: refuse if any job of that id is still known.")
@click.option("--meta", metavar="NAME=VALUE", multiple=True, help="A fact for people and tools.")
@click.option("--wait", "wait_", is_flag=True, help="Wait for the end and print the result.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@dry_run_option
def enqueue(
    task: str,
    arguments: tuple[str, ...],
    retry_interval: tuple[str, ...],
    job_id: str | None,
    unique: str | None,
    meta: tuple[str, ...],
    wait_: bool,
    as_json: bool,
    dry_run: bool,
    **said: Any,
) -> None:
    """Give TASK (package.module:function) to the workers; prints the job's id."""
    from hpcpools import api, catalog, textsafe
    from hpcpools.errors import UsageError
    from hpcpools.services import autostart
    from hpcpools.short.options import JobOptions

    if job_id and unique:
        raise UsageError("--job-id and --unique do not go together", hint="give one of them")
    config = load_config()
    named = textsafe.json_arguments(textsafe.key_values(arguments))
    entry = catalog.load(config).short(textsafe.callable_name(task))
    catalog.check_arguments(entry, named)
    said |= {"retry_intervals": retry_interval or None, "meta": textsafe.key_values(meta) or None}
    said |= {"job_id": unique or job_id, "unique": unique is not None}
    JobOptions(**said).check(config)
    queue = catalog.destination(config, entry, said["queue"])
    if dry_run:
        click.echo(f"would enqueue {entry.name} {named} on {queue}")
        return
    autostart.for_short(config, note)
    job = api.enqueue(entry.name, named, config=config, **said)
    if job.state == "scheduled" and not _scheduler_is_live(config):
        note("no scheduler runs that would start it: `hpcpools up scheduler`")
    if wait_:
        note(job.id)
        value = job.result()
        show_json({"job": job.id, "state": job.state, "result": value} if as_json else value)
    elif as_json:
        show_json({"job": job.id, "state": job.state})
    else:
        click.echo(job.id)


def _scheduler_is_live(config: Config) -> bool:
    from hpcpools.redisdb.connect import connect
    from hpcpools.short import lease

    with connect(config) as connection:
        return lease.holder(connection) is not None


@click.command()
@json_option
def queues(as_json: bool) -> None:
    """Depth and age of every queue, the training queue among them."""
    from hpcpools.overview import queue_rows
    from hpcpools.runs import directory
    from hpcpools.runs.directory import RunDirectory
    from hpcpools.runs.view import read_view
    from hpcpools.short import views
    from hpcpools.training import engine

    config = load_config()
    live = [read_view(RunDirectory(config.root, token)) for token in directory.live_tokens(config.root)]
    rows = queue_rows(config, engine.choose(config), live, views.queues(config))
    if as_json:
        show_json(rows)
        return
    show_table(
        ["QUEUE", "SERVED BY", "WAITING", "OLDEST", "RUNNING", "FAILED", "SCHEDULED", "DEFERRED"],
        [
            [
                row["queue"],
                row["served_by"],
                row["waiting"],
                None if row["oldest"] is None else ago(time.time() - row["oldest"]),
                row["running"],
                row["failed"],
                row["scheduled"],
                row["deferred"],
            ]
            for row in rows
        ],
    )


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
        show_json(found)
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
        show_json(detail)
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
            ("meta", repr(detail.meta) if detail.meta else None),
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
