"""The short pool in numbers: workers, queues, durations and waits of tasks, the schedule, Redis itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hpcpools.config import Config
from hpcpools.monitoring.families import Metric, counters, gauge, gauges, histograms
from hpcpools.short import tally, timetable, views
from hpcpools.short.recovery import LANE, name_prefix
from hpcpools.short.tally import Histogram
from hpcpools.short.timetable import ScheduleStatus
from hpcpools.short.views import QueueView, WorkerView
from hpcpools.textsafe import one_line

if TYPE_CHECKING:
    from redis import Redis

SILENT = 120.0  # seconds without a heartbeat after which a worker counts as dead; one is due every 15 s
MOST_SCHEDULES = 200  # commands may add any number
OUTCOMES = {tally.RAN: "finished", tally.FAILED: "failed"}


def workers(config: Config, found: Sequence[WorkerView]) -> Iterable[Metric]:
    """Those of this host, of the short pool and of the lane; another host's exporter tells of its own."""
    here = name_prefix(config)
    pools = {
        "short": [one for one in found if one.name.startswith(here)],
        "lane": [one for one in found if one.name.startswith(LANE + here.rstrip("-"))],
    }
    alive = {
        pool: [one for one in those if one.heartbeat_age is not None and one.heartbeat_age < SILENT]
        for pool, those in pools.items()
    }
    yield gauges("workers_alive", "Workers with a heartbeat", "pool", _counted(alive))
    busy = {pool: [one for one in those if one.job] for pool, those in alive.items()}
    yield gauges("workers_busy", "Workers that run a task", "pool", _counted(busy))
    silent = {pool: [one for one in pools[pool] if one not in those] for pool, those in alive.items()}
    text = f"Workers still registered, but silent for {SILENT:.0f} s"
    yield gauges("workers_silent", text, "pool", _counted(silent))
    wanted = {"short": float(config.short.workers)}
    yield gauges("workers_wanted", "Workers that the configuration asks for", "pool", wanted)


def queues(found: Sequence[QueueView]) -> Iterable[Metric]:
    """Lengths and ages."""
    states = ("waiting", "running", "finished", "failed", "scheduled", "deferred")
    text = "Jobs on record in each state; finished and failed ones until their time to live has passed"
    counts = {(one.name, state): float(getattr(one, state)) for one in found for state in states}
    yield gauges("queue_jobs", text, "queue state", counts)
    oldest = {one.name: one.oldest or 0.0 for one in found}
    yield gauges("queue_oldest_seconds", "How long the first job in the queue has waited", "queue", oldest)


def tasks(
    config: Config, counted: dict[tuple[str, str], Histogram], causes: Mapping[str, int]
) -> Iterable[Metric]:
    """Durations and waits since Redis was made, as the pool counted them."""
    ran: dict[tuple[str, str], Histogram] = {}
    names = sorted({name for kind, name in counted if kind in OUTCOMES and name != tally.OTHER})
    kept = {*names[: tally.MOST], tally.OTHER}
    for (kind, name), found in counted.items():
        if kind in OUTCOMES:
            # Whatever else stands in that hash: no more names than the pool itself would count.
            label = (one_line(name) if name in kept else tally.OTHER, OUTCOMES[kind])
            ran[label] = _sum(ran[label], found) if label in ran else found
    waits = {queue: counted.get((tally.WAITED, queue)) or _none() for queue in config.queues}
    totals = dict.fromkeys(OUTCOMES.values(), 0.0)
    for (_task, outcome), found in ran.items():
        totals[outcome] += sum(found.counts)
    yield counters("jobs", "Short jobs that ended", "outcome", totals)
    yield counters("job_failures", "Why short jobs failed", "cause", causes)
    yield histograms(
        "task_duration_seconds",
        "How long tasks ran",
        "task outcome",
        tally.BOUNDS,
        {label: (found.counts, found.total) for label, found in sorted(ran.items())},
    )
    yield histograms(
        "queue_wait_seconds",
        "From enqueue to start",
        "queue",
        tally.BOUNDS,
        {queue: (found.counts, found.total) for queue, found in waits.items()},
    )


def schedule(rows: Sequence[ScheduleStatus], holder_age: float | None, now: float) -> Iterable[Metric]:
    """``now`` by Redis's clock; ``holder_age``: seconds since the live scheduler spoke, None without."""
    shown = sorted(rows, key=lambda row: row.name)[:MOST_SCHEDULES]
    yield gauge("scheduler_live", "Whether a scheduler holds the lease", float(holder_age is not None))
    yield gauge("scheduler_tick_age_seconds", "Since the live scheduler last ticked", holder_age)
    late = {(row.name, "last"): row.lateness for row in shown}
    late |= {(row.name, "p95"): row.late_p95 for row in shown}
    late |= {(row.name, "max"): row.late_max for row in shown}
    text = f"From slot to firing, over the newest {timetable.LATE_KEPT} firings"
    yield gauges("schedule_lateness_seconds", text, "schedule stat", late)
    overdue = {row.name: max(0.0, now - row.next_due) for row in shown if row.next_due is not None}
    yield gauges("schedule_overdue_seconds", "For how long the next firing has been due", "schedule", overdue)
    fired = {row.name: row.last_fired for row in shown}
    yield gauges("schedule_fired_timestamp_seconds", "The newest firing", "schedule", fired)
    failed = {row.name: float(row.last_state == "failed") for row in shown}
    yield gauges("schedule_last_failed", "Whether the newest fired job failed", "schedule", failed)
    for name, text in (
        ("fired", "Slots that were fired"),
        ("missed", "Slots that passed while no scheduler was live"),
        ("skipped", "Slots left out as the firing before still waited"),
    ):
        counts = {row.name: float(getattr(row, name)) for row in shown}
        yield counters(f"schedule_{name}", text, "schedule", counts)


def redis(facts: dict[str, Any]) -> Iterable[Metric]:
    """From INFO."""

    def number(name: str) -> float:
        return float(facts.get(name) or 0)

    yield gauge("redis_memory_bytes", "Memory in use", number("used_memory"))
    yield gauge("redis_memory_limit_bytes", "maxmemory; 0 for none", number("maxmemory"))
    yield gauge("redis_aof_enabled", "Whether the append-only file is on", number("aof_enabled"))
    for name, key, what in (
        ("redis_aof_write_ok", "aof_last_write_status", "write to"),
        ("redis_aof_rewrite_ok", "aof_last_bgrewrite_status", "rewrite of"),
    ):
        text = f"Whether the last {what} the append-only file succeeded"
        yield gauge(name, text, float(facts.get(key, "ok") == "ok"))
    yield gauge("redis_aof_bytes", "Size of the append-only file", number("aof_current_size"))
    yield gauge("redis_clients", "Connected clients", number("connected_clients"))
    yield gauge("redis_uptime_seconds", "Since Redis was started", number("uptime_in_seconds"))


def read(config: Config, connection: Redis) -> Iterable[Metric]:
    """Workers, queues and tasks. Raises RedisUnavailableError."""
    yield from workers(config, views.workers(config))
    yield from queues(views.queues(config))
    yield from tasks(config, tally.read(connection), tally.causes(connection))


def read_schedule(config: Config, connection: Redis) -> Iterable[Metric]:
    """Raises ConfigError for a timing that has no slots."""
    from hpcpools.short import lease

    live = lease.holder(connection)
    rows = timetable.schedule_view(config, connection)
    seconds, micros = connection.time()
    yield from schedule(rows, live.age if live else None, seconds + micros / 1e6)


def _counted(those: dict[str, list[WorkerView]]) -> dict[str, float]:
    return {pool: float(len(found)) for pool, found in those.items()}


def _sum(one: Histogram, other: Histogram) -> Histogram:
    counts = tuple(a + b for a, b in zip(one.counts, other.counts, strict=True))
    return Histogram(counts, one.total + other.total)


def _none() -> Histogram:
    return Histogram((0,) * (len(tally.BOUNDS) + 1), 0.0)
