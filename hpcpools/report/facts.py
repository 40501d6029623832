"""What a report tells of a span of time: read from run directories and Redis, summed by pure functions.

Owns the sums. Refuses to call anything used that was not measured. Where Redis is away, the short pool's part
is missing and the report says why.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError, RedisUnavailableError
from hpcpools.failures import groups
from hpcpools.failures.groups import Failure, Group
from hpcpools.redisdb.resp import reader
from hpcpools.runs import span, usage
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.states import RunState
from hpcpools.runs.usage import Hours
from hpcpools.runs.view import View, read_view
from hpcpools.short import tally, views
from hpcpools.short.tally import BOUNDS, Histogram

BINS = 84  # of the timeline: two hours each in a week
MOST = 100_000  # short jobs on record that are looked at
Span = tuple[float, float]


@dataclass(frozen=True)
class Run:
    """One training that was alive in the span; times in epoch seconds. ``waited``: submission to start."""

    run: str
    name: str
    state: str
    cause: str
    partition: str
    gpus: int
    created: float
    started: float | None
    ended: float | None
    attempts: int
    waited: float | None
    hours: Hours
    held: tuple[Span, ...] = ()  # when it held its GPUs


@dataclass(frozen=True)
class Hold:
    """The sum over the runs of one state."""

    state: str
    runs: int
    hours: Hours


@dataclass(frozen=True)
class Wait:
    """How long the runs of a partition waited for their first start, in seconds; ``runs`` of them started."""

    partition: str
    runs: int
    p50: float
    p95: float
    longest: float


@dataclass(frozen=True)
class Task:
    """A short task's durations, or (``kind`` waited) a queue's waits, since Redis began to count.

    ``p50`` and ``p95`` are the upper ends, in seconds, of the classes they are in; infinite beyond the last.
    """

    name: str
    kind: str
    count: int
    mean: float
    p50: float
    p95: float


@dataclass(frozen=True)
class Bin:
    """A piece of the timeline: the mean number of GPUs held, and short jobs on record that ended in it."""

    begin: float
    gpus: float
    finished: int
    failed: int


@dataclass(frozen=True)
class Report:
    """All of it. ``missing``: why the short pool's part is not there."""

    since: float
    until: float
    runs: tuple[Run, ...] = ()
    states: tuple[Hold, ...] = ()
    waits: tuple[Wait, ...] = ()
    tasks: tuple[Task, ...] = ()
    failures: tuple[Group, ...] = ()
    timeline: tuple[Bin, ...] = ()
    missing: str = ""
    unreadable: tuple[str, ...] = field(default=())

    @property
    def hours(self) -> Hours:
        """Of all runs."""
        return sum((run.hours for run in self.runs), Hours())


def read(config: Config, since: float, now: float) -> Report:
    """The report from ``since`` to ``now`` (epoch seconds). Costs no Slurm command."""
    runs, unreadable = _runs(config, since, now)
    failed: list[Failure] = list(groups.of_runs(config, since))
    tasks: tuple[Task, ...] = ()
    ends: list[tuple[float, bool]] = []
    missing = ""
    try:
        with reader(config) as connection:
            tasks = of_tally(tally.read(connection))
        failed += groups.of_jobs(config, since)
        ends = [
            (job.ended, job.state != "finished")
            for job in views.jobs(config, limit=MOST)
            if job.ended is not None and job.state in ("finished", "failed", "stopped")
        ]
    except RedisUnavailableError as error:
        missing = error.message
    return Report(
        since=since,
        until=now,
        runs=tuple(sorted(runs, key=lambda run: (-run.hours.held, run.run))),
        states=by_state(runs),
        waits=by_partition(runs, since),
        tasks=tasks,
        failures=tuple(groups.grouped(failed)),
        timeline=timeline(runs, ends, since, now),
        missing=missing,
        unreadable=tuple(unreadable),
    )


def _runs(config: Config, since: float, now: float) -> tuple[list[Run], list[str]]:
    found, unreadable = [], []
    root = config.root
    for token in span.tokens(root, since):
        place = RunDirectory(root, token)
        try:
            view = read_view(place)
        except HpcpoolsError as error:
            unreadable.append(error.message)
            continue
        if not view.state.is_final or view.since >= since:
            found.append(_run(place, view, since, now))
    return found, unreadable


def _run(place: RunDirectory, view: View, since: float, now: float) -> Run:
    asked = view.request.resources
    attempts = usage.closed(place, view, now)
    started = next((each.started for each in attempts if each.started), None)
    spans = tuple((max(each.started, since), each.ended or now) for each in attempts if each.started)
    return Run(
        run=view.token,
        name=view.request.label or view.request.what,
        state=view.state.value,
        cause=view.cause.value,
        partition="(local)" if view.request.engine == "local" else asked.partition or "(default)",
        gpus=asked.all_gpus,
        created=view.request.created,
        started=started,
        ended=view.since if view.state.is_final else None,
        attempts=len(view.attempts),
        waited=None if started is None else max(0.0, started - view.request.created),
        hours=usage.hours(attempts, asked.gpus, asked.nodes, since) if asked.gpus else Hours(),
        held=tuple((begin, end) for begin, end in spans if end > begin) if asked.gpus else (),
    )


def by_state(runs: Iterable[Run]) -> tuple[Hold, ...]:
    """The sums for each state, in the order of the states."""
    found: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        found[run.state].append(run)
    return tuple(
        Hold(state.value, len(found[state.value]), sum((run.hours for run in found[state.value]), Hours()))
        for state in RunState
        if state.value in found
    )


def by_partition(runs: Iterable[Run], since: float) -> tuple[Wait, ...]:
    """The waits of the runs that first started in the span. Who waits still has no wait yet."""
    found: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        if run.waited is not None and run.started is not None and run.started >= since:
            found[run.partition].append(run.waited)
    return tuple(
        Wait(name, len(waits), quantile(waits, 0.5), quantile(waits, 0.95), max(waits))
        for name, waits in sorted(found.items())
    )


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of the values do not exceed. Needs one value at least."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def of_tally(counted: dict[tuple[str, str], Histogram]) -> tuple[Task, ...]:
    """Durations and waits by name."""
    rows = []
    for (kind, name), histogram in sorted(counted.items(), key=lambda row: (row[0][0], row[0][1])):
        number = sum(histogram.counts)
        if number:
            at = _class_of(histogram, number)
            rows.append(Task(name, kind, number, histogram.total / number, at(0.5), at(0.95)))
    return tuple(rows)


def _class_of(histogram: Histogram, number: int) -> Callable[[float], float]:
    def at(share: float) -> float:
        seen = 0
        for count, bound in zip(histogram.counts, (*BOUNDS, math.inf), strict=True):
            seen += count
            if seen >= math.ceil(share * number):
                return bound
        return math.inf

    return at


def timeline(
    runs: Iterable[Run], ends: Iterable[tuple[float, bool]], since: float, now: float
) -> tuple[Bin, ...]:
    """The span in equal pieces. ``ends``: when short jobs ended, and whether they failed."""
    width = (now - since) / BINS
    gpus, good, bad = [0.0] * BINS, [0] * BINS, [0] * BINS
    for run in runs:
        for begin, end in run.held:
            first, last = (min(BINS - 1, max(0, int((at - since) / width))) for at in (begin, end))
            for number in range(first, last + 1):
                left = since + number * width
                gpus[number] += run.gpus * max(0.0, min(end, left + width) - max(begin, left)) / width
    for at, failed in ends:
        if since <= at <= now:
            (bad if failed else good)[min(BINS - 1, int((at - since) / width))] += 1
    return tuple(
        Bin(since + number * width, gpus[number], good[number], bad[number]) for number in range(BINS)
    )
