"""The first page: both pools at a glance, each fact with its age."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from flask import render_template

from hpcpools.config import Config
from hpcpools.dashboard.app import site
from hpcpools.dashboard.rows import Row
from hpcpools.errors import HpcpoolsError
from hpcpools.lane import views as lane
from hpcpools.redisdb import keys
from hpcpools.redisdb.resp import reader
from hpcpools.runs import nodes
from hpcpools.runs.states import RunState
from hpcpools.services import control
from hpcpools.short import views

SHOWN = 8  # runs of each list
MOST_NODES = 60
STATES = tuple(state.value for state in RunState)
T = TypeVar("T")


@dataclass
class Node:
    """A node on which our runs are now; ``busy``: the GPUs' mean utilisation in percent, None if unknown."""

    name: str
    runs: list[Row]
    gpus: int
    busy: float | None
    shunned: bool


def overview() -> str:
    """Pools, backlog, nodes, runs by state."""
    here = site()
    config, table = here.config, here.table
    table.want()
    problems: list[str] = []

    def attempt(ask: Callable[[], T]) -> T | None:
        try:
            return ask()
        except HpcpoolsError as error:
            if str(error) not in problems:
                problems.append(str(error))
            return None

    live, now = table.live(), time.time()
    running = [row for row in live if row.state == "RUNNING"]
    shunned = {node.name for node in nodes.read_nodes(config.root, now) if node.quarantined_until is not None}
    busy, index_as_of = attempt(lambda: _index(config, [row.run for row in running])) or ({}, None)
    queues = attempt(lambda: views.queues(config)) or []
    oldest = [queue.oldest for queue in queues if queue.oldest is not None]
    return render_template(
        "overview.html",
        counts=table.counts(),
        loaded=table.loaded()[0],
        known=table.loaded()[1],
        states=STATES,
        live=sorted(live, key=lambda row: (row.state != "RUNNING", -row.since))[:SHOWN],
        more_live=max(0, len(live) - SHOWN),
        ended=table.newest(SHOWN, lambda row: row.state not in ("RUNNING", "PENDING", "SUBMITTING")),
        waiting=[row for row in live if row.state != "RUNNING"],
        running=running,
        nodes=_nodes(running, busy, shunned)[:MOST_NODES],
        shunned=shunned,
        index_as_of=index_as_of,
        queues=queues,
        oldest=max(oldest, default=None),
        workers=attempt(lambda: views.workers(config)) or [],
        services=attempt(lambda: control.ps(config)) or [],
        batches=(attempt(lambda: lane.open_batches(config)) or []) if config.has_lane else [],
        problems=problems,
        now=now,
    )


def _nodes(running: Sequence[Row], busy: dict[str, float], shunned: set[str]) -> list[Node]:
    found: dict[str, Node] = {}
    for row in running:
        if not row.gpus:
            continue
        node = found.setdefault(row.node or "?", Node(row.node or "?", [], 0, None, row.node in shunned))
        node.runs.append(row)
        node.gpus += row.gpus * row.nodes
        if row.run in busy:
            node.busy = 100 * busy[row.run]
    return sorted(found.values(), key=lambda node: node.name)


def _index(config: Config, names: Sequence[str]) -> tuple[dict[str, float], float | None]:
    """The utilisation (0 to 1) of each run that the index has one of, and when it was written."""
    with reader(config) as connection:
        at = connection.get(keys.INDEX_AS_OF)
        answers = connection.hmget(keys.INDEX, list(names)) if names else []
    busy: dict[str, float] = {}
    for name, answer in zip(names, answers, strict=True):
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            busy[name] = float(json.loads(answer).get("gpu_utilisation"))
    try:
        return busy, float(at) if at else None
    except ValueError:
        return busy, None
