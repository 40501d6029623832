"""`hpcpools schedule …`: what fires when, what was missed, and changes by hand."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from hpcpools.cli import complete
from hpcpools.cli.output import (
    ago,
    dry_run_option,
    due,
    json_option,
    load_config,
    note,
    show_json,
    show_table,
)

if TYPE_CHECKING:
    from hpcpools.short.timetable import ScheduleStatus


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def schedule(ctx: click.Context, as_json: bool) -> None:
    """List the periodic tasks: last and next slot, missed and late. Slots are UTC or in the zone shown."""
    if ctx.invoked_subcommand is None:
        _list(as_json)


@schedule.command(epilog="Example: hpcpools schedule add nightly tasks:report --cron '30 2 * * *'")
@click.argument("name")
@click.argument("task")
@click.option("--every", metavar="TIME", help="Each time this long has passed; the grid is that of UTC.")
@click.option("--cron", metavar="LINE", help="minute hour day month weekday.")
@click.option("--timezone", metavar="ZONE", help="The clock of the cron line, such as Europe/Berlin; or UTC.")
@click.option("--queue", "-q", help="Where it is enqueued; maintenance if left out.")
@dry_run_option
@json_option
def add(
    name: str,
    task: str,
    every: str | None,
    cron: str | None,
    timezone: str | None,
    queue: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Fire TASK (package.module:function) periodically, as schedule NAME, until it is removed."""
    from hpcpools import catalog, textsafe
    from hpcpools.short import declared, plan

    config = load_config()
    given = {"every": every, "cron": cron, "timezone": timezone, "queue": queue}
    facts = {"task": textsafe.callable_name(task)} | {k: v for k, v in given.items() if v is not None}
    made = plan.draft(config, catalog.load(config), name, facts)
    if not dry_run:
        declared.add(config, name, facts)
    first = made.timing.next(time.time())
    if as_json:
        show_json({"schedule": name, **facts, "next_due": first, "dry_run": dry_run})
        return
    verb = "would add" if dry_run else "added"
    click.echo(f"{verb} {name}: {made.timing} on {made.queue}, first {due(first)} ({_utc(first)})")


@schedule.command()
@click.argument("name", shell_complete=complete.schedules)
@dry_run_option
@json_option
def remove(name: str, dry_run: bool, as_json: bool) -> None:
    """Forget schedule NAME, which `schedule add` made."""
    from hpcpools.short import declared

    config = load_config()
    declared.check_remove(config, name)
    if not dry_run:
        declared.remove(config, name)
    _changed(name, "remove", "removed", True, dry_run, as_json)


@schedule.command()
@click.argument("name", shell_complete=complete.schedules)
@dry_run_option
@json_option
def pause(name: str, dry_run: bool, as_json: bool) -> None:
    """Fire nothing of schedule NAME until `schedule resume`; its slots until then are not made up for."""
    from hpcpools.short import declared

    config = load_config()
    changed = declared.check_pause(config, name, paused=True)
    if not dry_run:
        changed = declared.pause(config, name)
    _changed(name, "pause", "paused", changed, dry_run, as_json)


@schedule.command()
@click.argument("name", shell_complete=complete.schedules)
@dry_run_option
@json_option
def resume(name: str, dry_run: bool, as_json: bool) -> None:
    """Fire schedule NAME again, from its next slot on."""
    from hpcpools.short import declared

    config = load_config()
    changed = declared.check_pause(config, name, paused=False)
    if not dry_run:
        changed = declared.resume(config, name)
    _changed(name, "resume", "resumed", changed, dry_run, as_json)


@schedule.command("run-now")
@click.argument("name", shell_complete=complete.schedules)
@dry_run_option
@json_option
def run_now(name: str, dry_run: bool, as_json: bool) -> None:
    """Enqueue the task of schedule NAME once, now; prints the job's id. Refused while a firing waits."""
    from hpcpools.services import autostart
    from hpcpools.short import declared, runnow

    config = load_config()
    declared.read(config).find(name)
    if not dry_run:
        autostart.for_short(config, note)
    fired = runnow.run_now(config, name, dry_run=dry_run)
    for job in fired.beside:
        note(f"{job} of this schedule still runs; this one runs beside it")
    if as_json:
        show_json({"schedule": name, **asdict(fired), "dry_run": dry_run})
    else:
        click.echo(f"would enqueue {fired.task} on {fired.queue}" if dry_run else fired.job)


def _changed(name: str, verb: str, done: str, changed: bool, dry_run: bool, as_json: bool) -> None:
    if as_json:
        show_json({"schedule": name, verb: changed, "dry_run": dry_run})
    elif not changed:
        click.echo(f"{name} {'is paused already' if verb == 'pause' else 'is not paused'}")
    else:
        click.echo(f"would {verb} {name}" if dry_run else f"{done} {name}")


def _list(as_json: bool) -> None:
    from hpcpools.redisdb.resp import reader
    from hpcpools.short import declared
    from hpcpools.short.timetable import schedule_view

    config = load_config()
    table = declared.read(config)
    with reader(config) as connection:
        rows = schedule_view(config, connection, table)
    holder, age = rows[0].holder, rows[0].holder_age
    if as_json:
        live = {"name": holder, "ticked": age} if holder else None
        show_json({"at": time.time(), "scheduler": live, "schedules": rows, "problems": table.problems})
        return
    click.echo(f"scheduler {holder}, ticked {age:.1f} s ago" if holder else "no scheduler is live")
    show_table(
        ["NAME", "TASK", "WHEN", "QUEUE", "LAST FIRED", "OUTCOME", "NEXT DUE", "MISSED", "LATE, P95, MAX"],
        [
            [row.name, row.task, row.timing, row.queue, ago(row.last_fired), row.last_state]
            + [due(row.next_due) if row.state == "on" else row.state, _missed(row), _late(row)]
            for row in rows
        ],
    )
    for problem in table.problems:
        note(problem)
    if not holder:
        note("nothing fires until a scheduler runs: `hpcpools up`")


def _missed(row: ScheduleStatus) -> str:
    if not row.gaps:
        return str(row.missed)
    return f"{row.missed}, last {ago(row.gaps[-1].last)}"


def _late(row: ScheduleStatus) -> str:
    """Milliseconds, or seconds where they are many."""
    lengths = (row.lateness, row.late_p95, row.late_max)
    return ", ".join(f"{s:.1f} s" if s >= 1 else f"{s * 1000:.1f} ms" for s in lengths if s is not None)


def _utc(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
