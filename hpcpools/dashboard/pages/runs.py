"""The list of runs: filtered, sorted and cut into pages here, from memory."""

from __future__ import annotations

from flask import render_template, request

from hpcpools.dashboard.app import site
from hpcpools.dashboard.rows import SORTS
from hpcpools.runs.states import RunState

SIZE = 50
LONGEST = 200  # characters of the filter


def runs() -> str:
    """``q``, ``state``, ``sort``, ``dir`` and ``page`` as the address says; nonsense counts as not said."""
    table = site().table
    table.want()
    said = request.args
    state = said.get("state", "")
    sort = said.get("sort", "")
    page = said.get("page", "")
    asked = {
        "q": said.get("q", "")[:LONGEST].strip(),
        "state": state if state in RunState.__members__ else "",
        "sort": sort if sort in SORTS else "created",
        "dir": "up" if said.get("dir") == "up" else "down",
    }
    number = max(1, int(page)) if page.isdecimal() and len(page) < 8 else 1
    found = table.page(
        text=asked["q"],
        state=asked["state"],
        sort=asked["sort"],
        down=asked["dir"] == "down",
        first=(number - 1) * SIZE,
        size=SIZE,
    )
    return render_template(
        "runs.html",
        asked=asked,
        found=found,
        page=number,
        pages=max(1, -(-found.found // SIZE)),
        first=(number - 1) * SIZE,
        states=[each.value for each in RunState],
        counts=table.counts(),
    )
