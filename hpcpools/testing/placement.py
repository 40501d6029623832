"""Which nodes a job gets, and why it waits. Pure; the rules of select/cons_tres that a test can see.

A job shares a node unless it, or a job there, is exclusive; without ``--mem`` it takes a node's memory whole.
"""

from __future__ import annotations

from hpcpools.testing.cluster import Node, Partition
from hpcpools.testing.world import Job, Spec, World


def find(world: World, job: Job, without: tuple[Job, ...] = ()) -> list[str]:
    """Names of free nodes for the job, as if ``without`` were gone; empty if there are too few."""
    partition = world.cluster.partition(job.spec.partition)
    if partition is None:
        return []
    busy = [each for each in world.jobs if each.placed and each not in without]
    free = [node.name for node in suited(world, partition, job.spec) if _fits(node, job.spec, busy)]
    free.sort(key=lambda name: name not in job.spec.nodelist)
    chosen = free[: job.spec.nodes]
    named = set(job.spec.nodelist) <= set(chosen)
    if len(chosen) < job.spec.nodes or not named:
        return []
    return [node.name for node in world.cluster.nodes if node.name in chosen]


def suited(world: World, partition: Partition, spec: Spec, *, also_away: bool = False) -> list[Node]:
    """The nodes of a partition that suffice and are not excluded; of those in service, or of all."""
    return [
        node
        for node in world.cluster.of(partition)
        if node.name not in spec.exclude
        and (also_away or node.name not in world.away)
        and node.gpus >= spec.gpus
        and node.cpus >= cpus(spec, node)
        and node.memory >= spec.memory
    ]


def cpus(spec: Spec, node: Node) -> int:
    """CPUs that the job takes of a node; an exclusive one all of them."""
    return node.cpus if spec.exclusive else per_node(spec) * spec.cpus_per_task


def per_node(spec: Spec) -> int:
    """Tasks on one node."""
    return spec.tasks_per_node or -(-spec.tasks // spec.nodes)


def devices(world: World, job: Job, node: Node) -> list[int]:
    """The GPUs that the job gets of a node: an exclusive one all, any other the lowest free ones."""
    if job.spec.exclusive:
        return list(range(node.gpus))
    taken = {gpu for each in world.jobs if each.placed for gpu in each.gpus.get(node.name, ())}
    return [gpu for gpu in range(node.gpus) if gpu not in taken][: job.spec.gpus]


def reason(world: World, job: Job, *, first: bool) -> str:
    """Why a job that found no nodes waits. ``first``: it is the next in line in its partition."""
    partition = world.cluster.partition(job.spec.partition)
    if partition is not None:
        gone = [name for name in job.spec.nodelist if name in world.away]
        if gone:
            return "ReqNodeNotAvail, UnavailableNodes:" + ",".join(gone)
        if len(suited(world, partition, job.spec)) < job.spec.nodes:
            away = [node.name for node in world.cluster.of(partition) if node.name in world.away]
            return "ReqNodeNotAvail, UnavailableNodes:" + ",".join(away)
    return "Resources" if first else "Priority"


def used(world: World, node: Node) -> tuple[int, int, int]:
    """(CPUs, MB of memory, GPUs) that jobs hold of a node."""
    return _held([job for job in world.jobs if job.placed], node)


def _held(jobs: list[Job], node: Node) -> tuple[int, int, int]:
    here = [job for job in jobs if node.name in job.nodes]
    return (
        sum(cpus(job.spec, node) for job in here),
        sum(job.spec.memory or node.memory for job in here),
        sum(len(job.gpus.get(node.name, ())) for job in here),
    )


def _fits(node: Node, spec: Spec, busy: list[Job]) -> bool:
    """An exclusive job shares with nobody, as every job holds a CPU."""
    held_cpus, held_memory, held_gpus = _held(busy, node)
    return (
        held_cpus + cpus(spec, node) <= node.cpus
        and held_memory + (spec.memory or node.memory) <= node.memory
        and held_gpus + spec.gpus <= node.gpus
    )
