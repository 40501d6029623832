"""Nodes: on which our runs are, and what the GPU checks said of any."""

from __future__ import annotations

import time

from flask import render_template

from hpcpools.dashboard.app import site
from hpcpools.runs import nodes as record

EVENTS = 20  # of a node


def nodes() -> str:
    """Those with events that count; the worst first."""
    here = site()
    here.table.want()
    now = time.time()
    found = sorted(
        record.read_nodes(here.config.root, now),
        key=lambda node: (node.quarantined_until is None, -node.events[-1].at),
    )
    busy: dict[str, list[str]] = {}
    for row in here.table.live():
        if row.state == "RUNNING":
            busy.setdefault(row.node, []).append(row.run)
    return render_template("nodes.html", found=found, busy=sorted(busy.items()), shown=EVENTS)
