"""The runs in numbers, from the index alone, read again only after somebody has written it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from hpcpools.monitoring.families import Metric, gauge, gauges
from hpcpools.redisdb import keys
from hpcpools.runs.restarts import KINDS
from hpcpools.runs.states import Cause, RunState

if TYPE_CHECKING:
    from redis import Redis

DAY = 86400.0
CHUNK = 1000  # rows in one answer of Redis, which does nothing else meanwhile
VERDICTS = ("idle", "hung", "starved")
ENGINES = ("slurm", "local")


class GpuHours(msgspec.Struct):
    """Of one run, over all its attempts."""

    held: float = 0.0
    measured: float = 0.0
    used: float = 0.0


class Row(msgspec.Struct):
    """What counts of a run in the index; see ``maintenance.metrics`` and ``maintenance.measures``."""

    state: RunState
    engine: str
    created: float
    cause: str = ""
    gpus: int = 0
    nodes: int = 1
    started: float | None = None
    restarts: dict[str, int] = {}
    breaker: bool = False
    gpu_hours: GpuHours = msgspec.field(default_factory=GpuHours)
    gpu_utilisation: float | None = None
    gpu_verdict: str = ""


@dataclass
class Totals:
    """The sums over all rows. ``waits``: seconds from submission to first start, of the last day's."""

    as_of: float
    states: Counter[tuple[str, str]] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    restarts: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    breakers: int = 0
    unreadable: int = 0
    pending_since: float | None = None
    waits: list[float] = field(default_factory=list)
    hours: GpuHours = field(default_factory=GpuHours)
    gpus: int = 0  # that running runs hold
    gpus_measured: int = 0
    gpus_used: float = 0.0

    def add(self, row: Row) -> None:
        """One run more. Words that are none of ours become ``other``."""
        self.states[row.state.value, row.engine if row.engine in ENGINES else "other"] += 1
        if row.state.is_final:
            self.causes[row.cause if row.cause in _CAUSES else "other"] += 1
        for kind, number in row.restarts.items():
            self.restarts[kind if kind in _KINDS else "other"] += number
        self.breakers += row.breaker
        if row.state is RunState.PENDING and row.started is None:
            self.pending_since = min(row.created, self.pending_since or row.created)
        if row.started is not None and row.started > self.as_of - DAY:
            self.waits.append(max(0.0, row.started - row.created))
        spent = row.gpu_hours
        self.hours.held += spent.held
        self.hours.measured += spent.measured
        self.hours.used += spent.used
        if row.state is RunState.RUNNING:
            held = row.gpus * row.nodes
            self.gpus += held
            if row.gpu_utilisation is not None:
                self.gpus_measured += held
                self.gpus_used += held * row.gpu_utilisation
            if row.gpu_verdict in VERDICTS:
                self.verdicts[row.gpu_verdict] += 1


_CAUSES = {cause.value for cause in Cause}
_KINDS = sorted(set(KINDS.values()))
_decode = msgspec.json.Decoder(Row).decode


class Index:
    """The totals, kept between two scrapes."""

    def __init__(self) -> None:
        self._written = b""
        self._totals: Totals | None = None

    def read(self, connection: Redis) -> Totals | None:
        """The totals as of the index's last update; None if there has been none."""
        written = connection.get(keys.INDEX_AS_OF)
        if not isinstance(written, bytes):
            return None
        if written != self._written or self._totals is None:
            totals = Totals(float(written))
            for _token, text in connection.hscan_iter(keys.INDEX, count=CHUNK):
                try:
                    totals.add(_decode(text))
                except msgspec.MsgspecError:
                    totals.unreadable += 1
            self._written, self._totals = written, totals
        return self._totals


def families(totals: Totals, now: float) -> Iterable[Metric]:
    """Gauges throughout, also of what only grows: runs that are removed are no longer counted."""
    yield gauge("index_age_seconds", "Since the index of runs was updated", max(0.0, now - totals.as_of))
    yield gauge("index_unreadable", "Rows of the index that are damaged", totals.unreadable)
    states = {(state.value, engine): 0.0 for state in RunState for engine in ENGINES}
    states.update(totals.states)
    yield gauges("runs", "Runs on record", "state engine", states)
    causes = {cause.value or "none": float(totals.causes[cause.value]) for cause in Cause}
    causes["other"] = totals.causes["other"]
    yield gauges("runs_ended", "Runs on record that have ended, by cause", "cause", causes)
    restarts = {kind: float(totals.restarts[kind]) for kind in (*_KINDS, "other")}
    yield gauges("run_restarts", "Restarts of the runs on record, by cause", "kind", restarts)
    text = "Runs on record that were not started again as they made no progress"
    yield gauge("runs_breaker_open", text, totals.breakers)
    waits = {
        name: _quantile(totals.waits, part) for name, part in (("p50", 0.5), ("p95", 0.95), ("max", 1.0))
    }
    text = "From submission to the first start, of runs that started within a day"
    yield gauges("run_pending_seconds", text, "stat", waits)
    oldest = 0.0 if totals.pending_since is None else max(0.0, now - totals.pending_since)
    yield gauge("runs_oldest_pending_seconds", "How long the first run that never started waits", oldest)
    yield gauge("gpus_held", "GPUs of the running runs", totals.gpus)
    used = totals.gpus_used / totals.gpus_measured if totals.gpus_measured else None
    yield gauge("gpu_utilisation_ratio", "Mean over the GPUs held whose utilisation is measured", used)
    verdicts = {verdict: float(totals.verdicts[verdict]) for verdict in VERDICTS}
    yield gauges("runs_gpu_verdict", "Running runs that telemetry found so", "verdict", verdicts)
    spent = {kind: hours * 3600 for kind, hours in msgspec.structs.asdict(totals.hours).items()}
    text = "GPU-seconds of the runs on record; used is a part of measured, that of held"
    yield gauges("gpu_seconds", text, "kind", spent)


def read(index: Index, connection: Redis) -> Iterable[Metric]:
    """Nothing before the first update of the index."""
    totals = index.read(connection)
    return () if totals is None else families(totals, time.time())


def _quantile(values: Sequence[float], part: float) -> float | None:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else None
