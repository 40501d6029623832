"""What virtual time brings: start times, warnings, time limits, the end of grace, and what squeue forgets."""

from __future__ import annotations

import math
import signal
from pathlib import Path

from hpcpools.testing import ends, scheduling
from hpcpools.testing.world import Job, World


def step(world: World, folder: Path, target: float) -> list[Job] | None:
    """Go on to the next moment at which something is due, if by ``target``; the jobs that got a signal.

    None: nothing is due any more, it is ``target``.
    """
    if scheduling.schedule(world, folder):
        return []  # a step of its own: what has just started needs real time before its first signal
    moment = min((due(world, job) for job in world.jobs), default=math.inf)
    lag = world.faults.lag_until
    if lag and lag <= min(moment, target):
        world.now = max(world.now, lag)
        world.before = world.before_past = None
        world.faults.lag_until = 0.0
        return []
    if moment > target:
        world.now = max(world.now, target)
        scheduling.schedule(world, folder)
        return None
    world.now = max(world.now, moment)
    signalled = [job for job in list(world.jobs) if due(world, job) <= world.now and _happens(world, job)]
    scheduling.schedule(world, folder)
    return signalled


def due(world: World, job: Job) -> float:
    """When something happens to the job by itself; infinity for never."""
    if job.completing:
        return job.kill_at or math.inf
    if job.state == "PENDING":
        return job.begin if job.begin > world.now and not job.held else math.inf
    if job.state != "RUNNING":
        return job.end + world.cluster.min_job_age
    return min(warning(job), job.evict_at or math.inf, job.limit)


def warning(job: Job) -> float:
    """When the job gets its ``--signal``; infinity if it had it, or has none."""
    return job.limit - job.spec.signal_lead if job.spec.signal and not job.warned else math.inf


def _happens(world: World, job: Job) -> bool:
    """The one thing that is due for this job; True if its processes got a signal."""
    if job.completing:
        job.kill_at = 0.0
        ends.send(world, job, signal.SIGKILL, whole=True)
    elif job.state == "PENDING":
        return False
    elif job.state != "RUNNING":
        world.jobs.remove(job)
        return False
    elif warning(job) <= world.now:
        ends.warn(world, job)
    elif job.evict_at and job.evict_at <= world.now:
        ends.evict(world, job)
    else:
        ends.time_out(world, job)
    return True
