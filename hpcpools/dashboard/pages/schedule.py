"""What fires when, what was missed, how late."""

from __future__ import annotations

from flask import render_template

from hpcpools.dashboard.app import site
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
