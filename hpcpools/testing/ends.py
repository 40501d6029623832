"""How jobs leave their nodes: cancelled, requeued, preempted, out of time, lost, or done by themselves.

Changes the world under its lock and signals processes on the spot; their end is told by :func:`over`.
What is shown after each change was read off a real Slurm 22.05.
"""

from __future__ import annotations

import copy
import os
import signal

from hpcpools.errors import SlurmRefusedError
from hpcpools.testing import processes
from hpcpools.testing.world import Job, Step, World


def cancel(world: World, job: Job) -> None:
    """scancel."""
    if job.state == "PENDING" and not job.completing:
        job.state, job.start, job.end = "CANCELLED", world.now, world.now
        world.past.append(copy.deepcopy(job))
    elif job.placed:
        job.state, job.status, job.attempt = "CANCELLED", signal.SIGTERM.value, ""
        _end(world, job)


def requeue(world: World, job: Job, *, attempt: str = "REQUEUED", hold: bool = False) -> None:
    """Back into the queue under the same id. Raises SlurmRefusedError where Slurm would."""
    if job.state == "PENDING":
        raise SlurmRefusedError("Job is pending execution")
    if not job.spec.requeue:
        raise SlurmRefusedError("Requested operation is presently disabled")
    running = job.placed
    job.state, job.attempt, job.hold_after = "PENDING", attempt, hold
    job.restarts += 1
    if running:
        _end(world, job)
    else:
        job.steps = []  # the attempt that ended is on record already
        _again(world, job)


def preempt(world: World, job: Job) -> None:
    """The job has to leave: its warning now, its end after the partition's GraceTime."""
    if job.state != "RUNNING" or job.evict_at:
        return
    partition = world.cluster.partition(job.spec.partition)
    job.evict_at = world.now + (partition.grace if partition else 0)
    job.end = job.evict_at
    if job.evict_at <= world.now:
        evict(world, job)
    elif world.cluster.preempt_sends_signal and job.spec.signal:
        warn(world, job)
    else:
        send(world, job, signal.SIGCONT, whole=False)
        send(world, job, signal.SIGTERM, whole=False)


def evict(world: World, job: Job) -> None:
    """The grace of a preemption is over."""
    partition = world.cluster.partition(job.spec.partition)
    if job.spec.requeue and not (partition and partition.preempt_mode == "CANCEL"):
        requeue(world, job, attempt="PREEMPTED")
    else:
        job.state, job.status = "PREEMPTED", signal.SIGTERM.value
        _end(world, job)


def node_fail(world: World, node: str) -> None:
    """The node is gone at once, with every process of its jobs, whose runners tell nothing."""
    world.away[node] = ("down*", "Not responding")
    for job in [job for job in world.jobs if job.placed and node in job.nodes]:
        processes.end(job)
        for step in job.steps:
            step.state, step.code, step.end = "CANCELLED", -1, world.now
        if job.state == "RUNNING":
            job.state, job.attempt = ("PENDING", "NODE_FAIL") if job.spec.requeue else ("NODE_FAIL", "")
            job.restarts += job.spec.requeue
            job.reason = "NodeDown"
        over(world, job, 0)


def time_out(world: World, job: Job) -> None:
    """Its time limit has come."""
    job.state, job.reason, job.status = "TIMEOUT", "TimeLimit", signal.SIGTERM.value
    _end(world, job)


def warn(world: World, job: Job) -> None:
    """The job's ``--signal``."""
    job.warned = True
    if job.spec.signal_batch:
        send_to_script(world, job, job.spec.signal)
    else:
        send(world, job, job.spec.signal, whole=False)


def send(world: World, job: Job, signum: int, *, whole: bool) -> None:
    """A signal to the job's steps, or to all of the job, as soon as the world is written."""
    world.signals += [(*process, signum) for process in processes.reached(job, whole=whole)]


def send_to_script(world: World, job: Job, signum: int) -> None:
    """A signal to the batch script alone."""
    world.signals += [(*process, signum) for process in processes.script(job)]


def _end(world: World, job: Job) -> None:
    """TERM now, KILL after KillWait; what it becomes is decided."""
    job.end, job.completing, job.evict_at = world.now, True, 0.0
    if job.rehearsed:
        over(world, job, signal.SIGTERM.value)
        return
    job.kill_at = world.now + world.cluster.kill_wait
    send(world, job, signal.SIGCONT, whole=True)
    send(world, job, signal.SIGTERM, whole=True)


def over(world: World, job: Job, status: int) -> None:
    """No process of the job is left; ``status``: the raw wait status of its batch script."""
    if job.state == "RUNNING":
        job.status = status
        job.state, job.reason = _verdict(job)
    if not job.completing:
        job.end = world.now
    for step in job.steps:
        if step.state == "RUNNING":
            finish_step(step, status if step.name == "batch" else signal.SIGKILL.value, world.now)
            if step.name == "batch" and job.state == "OUT_OF_MEMORY":
                step.state, step.code, step.signal = "OUT_OF_MEMORY", 0, 125
    job.completing, job.kill_at, job.evict_at = False, 0.0, 0.0
    if job.state == "PENDING":
        _again(world, job)
    else:
        world.past.append(copy.deepcopy(job))


def _again(world: World, job: Job) -> None:
    if job.steps:
        record = copy.deepcopy(job)
        record.state = job.attempt
        world.past.append(record)
    now = world.now
    job.submit, job.begin, job.reason = now, now + world.cluster.requeue_delay, "BeginTime"
    job.start, job.end, job.status, job.attempt = 0.0, 0.0, 0, ""
    job.nodes, job.gpus, job.steps, job.runner = [], {}, [], (0, 0)
    if job.hold_after:
        job.held, job.hold_after, job.begin, job.reason = True, False, 0.0, "job requeued in held state"


def hold(job: Job) -> None:
    """scontrol hold; root is an administrator."""
    if job.state == "PENDING":
        job.held, job.reason = True, "JobHeldUser" if os.getuid() else "JobHeldAdmin"


def release(job: Job) -> None:
    """scontrol release."""
    job.held, job.reason = False, "None"


def finish_step(step: Step, status: int, now: float) -> None:
    """A step's end by its raw wait status."""
    step.code, step.signal, step.end = status >> 8 & 0xFF, status & 0x7F, now
    step.state = "CANCELLED" if step.signal else "FAILED" if step.code else "COMPLETED"


def _verdict(job: Job) -> tuple[str, str]:
    if job.out_of_memory and all(step.name == "batch" for step in job.steps):
        return "OUT_OF_MEMORY", "OutOfMemory"
    if not job.status:
        return "COMPLETED", "None"
    return "FAILED", "JobLaunchFailure" if job.status & 0x7F else "NonZeroExitCode"
