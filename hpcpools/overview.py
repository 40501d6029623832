"""Both pools at one moment: what ``status`` prints once, and ``top`` looks at again and again.

Owns how each part is read, and that a part which does not answer leaves the others readable.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct, structs

from hpcpools import gpu
from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError
from hpcpools.maintenance.metrics import summary
from hpcpools.redisdb.resp import reader
from hpcpools.runs import directory
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Engine
from hpcpools.runs.states import RunState
from hpcpools.runs.view import View, read_view
from hpcpools.schema import LANE_QUEUE, TRAINING_QUEUE
from hpcpools.services import control
from hpcpools.services.state import ServiceState
from hpcpools.short import timetable, views
from hpcpools.short.timetable import ScheduleStatus
from hpcpools.short.views import QueueView, WorkerView
from hpcpools.training import engine, watch
from hpcpools.training.watch import Watch

if TYPE_CHECKING:
    from hpcpools.lane.views import BatchView

ENGINE_KEPT = 300.0  # seconds for which it is known whether Slurm is here
NEWEST = 200  # runs, and short jobs, that are looked at; of live runs all are
T = TypeVar("T")


class Facts(Struct, frozen=True):
    """One look, at ``at`` (epoch seconds). None: that part did not answer, and ``problems`` says why."""

    at: float
    engine: Engine | None
    seen: Watch | None  # the live runs
    queues: list[QueueView] | None
    lane: list[BatchView] | None  # also None where there is none
    workers: list[WorkerView] | None
    schedule: list[ScheduleStatus] | None
    services: list[ServiceState] | None
    problems: list[str]


class Look:
    """Reads the facts of one pool, again and again. Not for several threads at once.

    ``excused``: the errors that are a problem of their part; any other one ends the look.
    """

    def __init__(self, config: Config, excused: tuple[type[Exception], ...] = (HpcpoolsError,)) -> None:
        self._config = config
        self._excused = excused
        self._where: Engine = "local"
        self._ask_again = 0.0
        self._problems: list[str] = []

    def __call__(self, *, fresh: bool = False) -> Facts:
        """Everything now. ``fresh``: ask Slurm, where all readers else share its last answer."""
        config, part = self._config, self.part
        self._problems = []
        where = part(self._engine)
        seen = part(lambda: watch.current(config, fresh=fresh, slurm=where == "slurm")) if where else None
        return Facts(
            at=time.time(),
            engine=where,
            seen=seen,
            queues=part(lambda: views.queues(config)),
            lane=part(self._lane) if config.has_lane else None,
            workers=part(lambda: views.workers(config)),
            schedule=part(self._schedule),
            services=part(lambda: control.ps(config)),
            problems=self._problems,
        )

    def part(self, read: Callable[[], T]) -> T | None:
        """What ``read`` returns; None, and one problem more in the last facts, if it does not answer."""
        try:
            return read()
        except self._excused as error:
            if str(error) not in self._problems:
                self._problems.append(str(error))
            return None

    def _engine(self) -> Engine:
        """Asked once in a while only: it starts a program of Slurm's."""
        if time.monotonic() >= self._ask_again:
            self._where = engine.choose(self._config)
            self._ask_again = time.monotonic() + ENGINE_KEPT
        return self._where

    def _lane(self) -> list[BatchView]:
        from hpcpools.lane.views import open_batches  # here: few pools have a lane

        return open_batches(self._config)

    def _schedule(self) -> list[ScheduleStatus]:
        with reader(self._config) as connection:
            return timetable.schedule_view(self._config, connection)


def training(config: Config, where: Engine, seen: Watch) -> dict[str, Any]:
    """The live runs, and how many of the newest are in each state."""
    known = {view.token: view for view in (*seen.views, *seen.ended)}
    newest = directory.tokens(config.root)[:NEWEST]
    found = (known.get(token) or read_view(RunDirectory(config.root, token)) for token in newest)
    return {
        "engine": where,
        "slurm_as_of": seen.as_of,
        "slurm_error": seen.error,
        "gpus_here": gpu.count() if where == "local" else None,
        "live": [summary(config, view) for view in seen.views],
        f"newest_{NEWEST}_by_state": dict(Counter(view.state.value for view in found)),
    }


def queue_rows(
    config: Config, where: Engine, live: Sequence[View], short: Sequence[QueueView]
) -> list[dict[str, Any]]:
    """The training queue, from the live runs, and those of the short pool, each with who serves it."""
    waiting = [view.request.created for view in live if view.state is not RunState.RUNNING]
    rows: list[dict[str, Any]] = [
        {
            "queue": TRAINING_QUEUE,
            "served_by": "Slurm" if where == "slurm" else "the local slot",
            "waiting": len(waiting),
            "oldest": time.time() - min(waiting) if waiting else None,
            "running": len(live) - len(waiting),
            "failed": None,
            "scheduled": None,
            "deferred": None,
        }
    ]
    for queue in short:
        facts = structs.asdict(queue)
        name = str(facts.pop("name"))
        served_by = "the Slurm lane" if name == LANE_QUEUE else f"{_workers(config)} workers"
        rows.append({"queue": name, "served_by": served_by, **facts})
    return rows


def _workers(config: Config) -> str:
    least, most = config.short.workers, config.short.max_workers
    return f"{least} to {most}" if most > least else str(least)
