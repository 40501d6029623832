"""What the screen shows: what ``status`` shows too (``overview``), all recent runs, their nodes, short jobs.

Owns what is remembered from look to look: names are listed anew only when a run came or went, and a run that
has ended is read once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hpcpools import overview
from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError
from hpcpools.maintenance.metrics import summary
from hpcpools.overview import NEWEST
from hpcpools.runs import directory, nodes, telemetry
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.states import RunState
from hpcpools.runs.view import View, read_view
from hpcpools.services.state import ServiceState
from hpcpools.short import views
from hpcpools.short.timetable import ScheduleStatus
from hpcpools.short.views import JobView, QueueView, WorkerView
from hpcpools.training.watch import Watch

NOTHING = Watch((), (), None, "")
OLD = 300.0  # seconds after which a GPU sample says nothing about now


@dataclass(frozen=True)
class NodeLine:
    """A node with our runs, or that failed their checks; ``busy``: percent of its GPUs, None if unknown."""

    name: str
    runs: int
    gpus: int
    busy: float | None
    avoided: bool
    failures: int


@dataclass(frozen=True)
class Facts:
    """One look. ``runs``: summaries as in ``runs --json``, the live ones first; times in epoch seconds."""

    at: float = 0.0
    engine: str = ""
    slurm_as_of: float | None = None
    slurm_error: str = ""
    runs: tuple[dict[str, Any], ...] = ()
    known: int = 0  # runs there are
    queues: tuple[QueueView, ...] = ()
    workers: tuple[WorkerView, ...] = ()
    services: tuple[ServiceState, ...] = ()
    schedule: tuple[ScheduleStatus, ...] = ()
    nodes: tuple[NodeLine, ...] = ()
    jobs: tuple[JobView, ...] = ()
    problems: tuple[str, ...] = ()


class Look:
    """Reads the facts of one pool, again and again. Not for several threads at once."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._look = overview.Look(config, (HpcpoolsError, OSError))
        self._ended: dict[str, dict[str, Any]] = {}
        self._names: list[str] = []  # newest first
        self._stamp = 0  # of the root directory when the names were listed

    def __call__(self, *, jobs: bool = False) -> Facts:
        """Everything now; short jobs only if they are wanted."""
        now, part = self._look(), self._look.part
        seen = now.seen or NOTHING
        rows = part(lambda: self._runs(seen.views, seen.ended))
        return Facts(
            at=now.at,
            engine=now.engine or "local",
            slurm_as_of=seen.as_of,
            slurm_error=seen.error,
            runs=rows or (),
            known=len(self._names),
            queues=tuple(now.queues or ()),
            workers=tuple(now.workers or ()),
            services=tuple(now.services or ()),
            schedule=tuple(now.schedule or ()),
            nodes=part(lambda: self._nodes(seen.views, now.at)) or (),
            jobs=tuple(part(lambda: views.jobs(self._config, limit=NEWEST)) or ()) if jobs else (),
            problems=tuple(now.problems),
        )

    def _runs(self, live: Sequence[View], ended: Sequence[View]) -> tuple[dict[str, Any], ...]:
        config = self._config
        self._list()
        rows = {view.token: summary(config, view) for view in reversed(live)}
        self._ended = {name: row for name, row in self._ended.items() if name not in rows}
        self._ended |= {view.token: summary(config, view) for view in ended if view.state.is_final}
        for name in self._names[:NEWEST]:
            if name in rows:
                continue
            if name not in self._ended:
                try:
                    view = read_view(RunDirectory(config.root, name))
                except HpcpoolsError:
                    continue  # it is being made, or removed
                if not view.state.is_final:
                    rows[name] = summary(config, view)
                    continue
                self._ended[name] = summary(config, view)
            rows[name] = self._ended[name]
        return tuple(rows.values())

    def _list(self) -> None:
        root = self._config.root
        stamp = root.stat().st_mtime_ns if root.is_dir() else 0
        # A name made within the clock's grain of the last listing changes no stamp.
        if stamp != self._stamp or time.time_ns() - stamp < 2 * 10**9:
            self._names, self._stamp = directory.tokens(root), stamp
            self._ended = {name: self._ended[name] for name in self._names if name in self._ended}

    def _nodes(self, live: Sequence[View], now: float) -> tuple[NodeLine, ...]:
        on: dict[str, list[View]] = {}
        for view in live:
            if view.state is RunState.RUNNING and view.attempt is not None and view.attempt.where:
                on.setdefault(view.attempt.where, []).append(view)
        shunned = {node.name: node for node in nodes.read_nodes(self._config.root, now)}
        found = []
        for name in sorted({*on, *shunned}):
            runs, record = on.get(name, []), shunned.get(name)
            loads = [load for view in runs for load in _loads(view, now)]
            found.append(
                NodeLine(
                    name,
                    len(runs),
                    sum(view.request.resources.all_gpus for view in runs),
                    sum(loads) / len(loads) if loads else None,
                    record is not None and record.quarantined_until is not None,
                    len(record.failures) if record else 0,
                )
            )
        return tuple(found)


def _loads(view: View, now: float) -> list[float]:
    """The newest utilisation of each GPU of the run's first node, in percent."""
    use = telemetry.usage(view.attempts[-1:], view.request.resources.all_gpus, now)
    if use.at is None or now - use.at > OLD:
        return []
    loads = (sample.get("util") for sample in use.samples if isinstance(sample, dict))
    return [float(load) for load in loads if isinstance(load, (int, float))]
