"""The queue: what is taken into it, who starts when, and why the others wait. Starts the runners of jobs.

Priority is the order of ids within a partition's tier; a job behind one that waits may start (backfill).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path

from hpcpools.errors import SlurmRefusedError
from hpcpools.testing import dependencies, ends, placement, processes
from hpcpools.testing.world import Job, Spec, Step, World

_FIRST = 4294901760  # of a sequential priority only the order counts (priority/basic)
_NOWHERE = "Requested node configuration is not available"


def check(world: World, spec: Spec) -> None:
    """Raises SlurmRefusedError with slurmctld's words for a job that it would not queue."""
    partition = world.cluster.partition(spec.partition)
    if partition is None:
        raise SlurmRefusedError("Invalid partition name specified")
    known = {node.name for node in world.cluster.nodes}
    if not known.issuperset([*spec.nodelist, *spec.exclude]):
        raise SlurmRefusedError("Invalid node name specified")
    large_enough = placement.suited(world, partition, spec, also_away=True)
    if len(large_enough) < min(spec.nodes, len(partition.nodes)):
        raise SlurmRefusedError(_NOWHERE)


def submit(world: World, spec: Spec, *, indices: list[int], parallel: int, begin: float, held: bool) -> int:
    """Queue a job, or the elements of an array; its id. Raises SlurmRefusedError."""
    check(world, spec)
    if indices and max(indices) >= world.cluster.max_array_size:
        raise SlurmRefusedError("Invalid job array specification")
    first = next_id(world)
    for at, index in enumerate(indices or [None]):
        number = next_id(world) if at else first  # elements are jobs with numbers of their own
        job = Job(number, copy.deepcopy(spec), world.now, begin=begin, held=held)
        job.priority, job.reason = _FIRST - first, "JobHeldUser" if held else "None"
        if index is not None:
            job.array, job.index, job.parallel = first, index, parallel
        world.jobs.append(job)
    return first


def next_id(world: World) -> int:
    """Take a job id."""
    world.next_id += 1
    return world.next_id - 1


def schedule(world: World, folder: Path) -> bool:
    """One pass over the queue: who can start starts, who cannot learns why. Whether one started."""
    blocked: set[str] = set()
    started = False
    for job in sorted(_waiting(world), key=lambda job: _turn(world, job)):
        if reason := _not_yet(world, job):
            job.reason = reason
        elif nodes := placement.find(world, job):
            _start(world, folder, job, nodes)
            started = True
        else:
            job.reason = placement.reason(world, job, first=job.spec.partition not in blocked)
            blocked.add(job.spec.partition)
            _make_room(world, job)
    return started


def _waiting(world: World) -> Iterator[Job]:
    return (job for job in world.jobs if job.state == "PENDING" and not job.completing)


def _turn(world: World, job: Job) -> tuple[int, int, int]:
    partition = world.cluster.partition(job.spec.partition)
    return -(partition.tier if partition else 0), job.array or job.id, job.index or 0


def _not_yet(world: World, job: Job) -> str:
    if job.held:
        return job.reason if "eld" in job.reason else "JobHeldUser"
    if waits := dependencies.reason(world, job):
        return waits
    if job.begin > world.now:
        return "BeginTime"
    partition = world.cluster.partition(job.spec.partition)
    if partition and job.spec.nodes > len(partition.nodes):
        return "PartitionNodeLimit"
    if partition and partition.max_time is not None and (job.spec.minutes or 0) * 60 > partition.max_time:
        return "PartitionTimeLimit"
    running = sum(each.array == job.array and each.placed for each in world.jobs)
    return "JobArrayTaskLimit" if job.parallel and running >= job.parallel else ""


def _start(world: World, folder: Path, job: Job, nodes: list[str]) -> None:
    granted = (node for node in world.cluster.nodes if node.name in nodes)
    job.gpus = {node.name: placement.devices(world, job, node) for node in granted}
    job.state, job.reason, job.start, job.nodes = "RUNNING", "None", world.now, nodes
    partition = world.cluster.partition(job.spec.partition)
    if job.spec.minutes is None and partition and partition.max_time:
        job.spec.minutes = partition.max_time // 60
    job.end = 0.0 if math.isinf(job.limit) else job.limit
    job.warned, job.out_of_memory, job.rehearsed = False, False, world.rehearsal
    if job.rehearsed:
        job.steps = [Step("batch", "batch", world.now)]
    else:
        processes.spawn(folder, job)


def _make_room(world: World, job: Job) -> None:
    """Preempt jobs of lower partitions if that lets this one start (preempt/partition_prio)."""
    mine = world.cluster.partition(job.spec.partition)
    if mine is None or world.cluster.preempt_type != "preempt/partition_prio":
        return
    lower = {p.name for p in world.cluster.partitions if p.tier < mine.tier and p.preempt_mode != "OFF"}
    victims: list[Job] = []
    for other in reversed(world.jobs):
        if other.placed and other.spec.partition in lower:
            victims.append(other)
            if nodes := placement.find(world, job, tuple(victims)):
                for victim in victims:
                    if set(nodes) & set(victim.nodes):
                        ends.preempt(world, victim)
                return
