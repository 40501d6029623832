"""Firing a schedule by hand: its task goes into its queue now, under an id of its own.

Owns the rule for it, which is the scheduler's: beside a firing that runs, yes; behind one that waits, no.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpcpools import catalog
from hpcpools.config import Config
from hpcpools.errors import RefusedError
from hpcpools.redisdb.connect import connect
from hpcpools.redisdb.outage import told
from hpcpools.short import declared, plan, timetable
from hpcpools.short.enqueue import Client

if TYPE_CHECKING:
    from redis import Redis

WAITS = frozenset({"queued", "scheduled", "deferred"})


@dataclass(frozen=True)
class Fired:
    """The job, and the firings of the same schedule that run at this moment."""

    job: str
    task: str
    queue: str
    beside: tuple[str, ...]


def run_now(config: Config, name: str, *, dry_run: bool = False) -> Fired:
    """Enqueue what schedule ``name`` fires, also if it is paused or off; its slots stay as they are.

    Raises NotFoundError, ConfigError, RefusedError if a firing waits already, RedisUnavailableError.
    """
    made = plan.plan(config, catalog.load(config), declared.read(config).find(name))
    connection = connect(config)
    with told():
        found = firings(connection, name)
    for job, state in found:
        if state in WAITS:
            raise RefusedError(
                f"{job} of this schedule waits already ({state})",
                hint=f"`hpcpools explain {job}` tells why; `hpcpools enqueue {made.entry.name}` adds another",
            )
    job_id = f"{name}-now-{time.time_ns() // 1_000_000}"
    if not dry_run:
        Client.of(config).enqueue(made.entry.name, {}, queue=made.queue, job_id=job_id)
        with told():
            connection.hset(timetable.record_key(name), "run_now", job_id)
    return Fired(
        job_id, made.entry.name, made.queue, tuple(job for job, state in found if state == "started")
    )


def firings(connection: Redis, name: str) -> Sequence[tuple[str, str]]:
    """The last job of the scheduler and the last one fired by hand, with the state of each."""
    record = timetable.records(connection, [name])[name]
    jobs = [job for job in (record.last_job, record.run_now) if job]
    return list(zip(jobs, timetable.job_states(connection, jobs), strict=True))
