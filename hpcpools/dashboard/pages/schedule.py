"""What fires when, what was missed, how late; pause, resume, and firing now."""

from __future__ import annotations

from flask import render_template
from flask.typing import ResponseReturnValue

from hpcpools.dashboard import command
from hpcpools.dashboard.app import done, site
from hpcpools.redisdb.resp import reader
from hpcpools.short import declared
from hpcpools.short.timetable import schedule_view


def schedule() -> str:
    """Every schedule, those that are off too."""
    config = site().config
    table = declared.read(config)
    with reader(config) as connection:
        rows = schedule_view(config, connection, table)
    return render_template("schedule.html", rows=rows, problems=table.problems)


def pause(name: str) -> ResponseReturnValue:
    """Fire nothing of it from now on."""
    declared.pause(site().config, name)
    return done("paused", "schedule")


def resume(name: str) -> ResponseReturnValue:
    """Fire it again, from its next slot on."""
    declared.resume(site().config, name)
    return done("resumed", "schedule")


def run_now(name: str) -> ResponseReturnValue:
    """Enqueue its task once, now."""
    config = site().config
    declared.read(config).find(name)  # what is none reaches no command
    command.run(config, "schedule", "run-now", name)
    return done("fired", "schedule")
