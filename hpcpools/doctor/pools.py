"""The pools: is every task routed to somebody, are the workers there, does the schedule fire."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from hpcpools import catalog
from hpcpools.config import Config
from hpcpools.doctor.finding import Finding, fail, ok, warn
from hpcpools.errors import HpcpoolsError
from hpcpools.redisdb.connect import connect
from hpcpools.services import control
from hpcpools.short import timetable, views
from hpcpools.short.timetable import ScheduleStatus
from hpcpools.short.views import JobView, QueueView, WorkerView

LATE = 60.0  # seconds after it was due until a schedule counts as stuck
LONG_WAIT = 300.0  # seconds: short work that waited that long
LOOKED_AT = 1000  # jobs that run
PUT_BACK = 30.0  # seconds in which the pool sees to a job whose worker died, with room to spare


def routing(config: Config) -> Iterator[Finding]:
    """Every declared task has a pool. Raises ConfigError, UsageError: a module does not import, say."""
    known = [entry for entry in catalog.load(config) if not entry.name.startswith(catalog.BUILT_IN)]
    if not known:
        fix = "list your modules in [project] modules and mark functions with @task or @training"
        yield warn("routing", "no module declares a task", fix)
    else:
        pools = sorted({entry.queue for entry in known})
        yield ok("routing", f"{len(known)} declared tasks, on {', '.join(pools)}")


def running(config: Config) -> bool:
    """Whether any service runs here; True if it cannot be known."""
    try:
        return any(state.pid for state in control.ps(config))
    except HpcpoolsError:
        return True


def services(config: Config) -> Iterator[Finding]:
    """What `hpcpools ps` says. Raises UnavailableError."""
    states = control.ps(config)
    if not any(state.pid for state in states):
        yield warn("services", "none runs here", "`hpcpools up` starts them")
        return
    for state in states:
        if state.state == "backoff":
            text = f"{state.name} keeps ending: {state.last_exit or state.detail}"
            yield fail("services", text, f"read its log: `hpcpools logs {state.name}`")
        elif state.pid:
            yield ok("services", f"{state.name} is {state.state}")


def short(config: Config) -> Iterator[Finding]:
    """Workers and queues. Raises RedisUnavailableError."""
    # First of all: whatever begins while we look has a worker that we see.
    started = views.jobs(config, state="started", limit=LOOKED_AT)
    workers = views.workers(config)
    yield from judge_short(config, workers, views.queues(config))
    yield from judge_held(workers, started, time.time())


def judge_short(config: Config, workers: list[WorkerView], queues: list[QueueView]) -> Iterator[Finding]:
    """Findings from what workers and queues show. Pure."""
    waiting = sum(queue.waiting for queue in queues)
    if not workers:
        text = f"no worker serves the short pool; {waiting} jobs wait"
        yield (fail if waiting else warn)("short pool", text, "`hpcpools up short`")
    else:
        yield ok("short pool", f"{len(workers)} workers, {waiting} jobs wait")
    for queue in queues:
        if queue.oldest is not None and queue.oldest > LONG_WAIT and workers:
            text = f"{queue.name}: the first of {queue.waiting} jobs has waited {queue.oldest:.0f} s"
            yield warn("short pool", text, "raise short.workers, or set short.max_workers")


def judge_held(workers: Sequence[WorkerView], started: Sequence[JobView], now: float) -> Iterator[Finding]:
    """Whether each job that runs at ``now`` has a worker that is still registered (REL-21). Pure."""
    live = {worker.name for worker in workers}
    stuck = [job for job in started if job.worker not in live and now - (job.started or 0.0) > PUT_BACK]
    if stuck:
        text = f"{len(stuck)} started jobs have no live worker, {stuck[0].id} the first"
        yield fail("short pool", text, "`hpcpools logs short`, then `hpcpools restart short` puts them back")


def schedule(config: Config) -> Iterator[Finding]:
    """Raises RedisUnavailableError, ConfigError."""
    with connect(config) as connection:
        rows = timetable.schedule_view(config, connection)
        seconds, micros = connection.time()
    yield from judge_schedule(rows, seconds + micros / 1e6)


def judge_schedule(rows: list[ScheduleStatus], now: float) -> Iterator[Finding]:
    """Findings from the timetable at ``now``, by Redis's clock. Pure."""
    holder = next((row.holder for row in rows if row.holder), "")
    if not holder:
        yield fail("schedule", "no scheduler is live, so no upkeep happens", "`hpcpools up scheduler`")
        return
    stuck = [row for row in rows if row.next_due is not None and now - row.next_due > LATE]
    for row in stuck:
        text = f"{row.name} was due {now - (row.next_due or now):.0f} s ago"
        yield fail("schedule", text, "`hpcpools logs scheduler`, then `hpcpools restart scheduler`")
    for row in rows:
        if row.last_state == "failed":
            yield warn("schedule", f"the last {row.name} failed", f"`hpcpools show {row.last_job}`")
    if not stuck:
        yield ok("schedule", f"{holder} is live, {len(rows)} schedules, none overdue")
