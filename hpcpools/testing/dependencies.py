"""``--dependency``: what a job waits for. Pure; Slurm 22.05's kinds but for ``?`` and federations.

A job that the fake does not know (any more) keeps nobody waiting, as in Slurm.
"""

from __future__ import annotations

import re

from hpcpools.testing.world import Job, World

_ONE = re.compile(r"(after|afterany|afterok|afternotok):([0-9_]+(?::[0-9_]+)*)|singleton")
NEVER = "DependencyNeverSatisfied"


def well_formed(text: str) -> bool:
    """Whether we understand it."""
    return all(_ONE.fullmatch(one) for one in text.split(",")) if text else True


def open_ones(world: World, job: Job) -> list[str]:
    """The parts that are not fulfilled, as scontrol shows them: ``afterok:7(unfulfilled)``."""
    found = ((one, _of(world, job, one)) for one in job.spec.dependency.split(",") if one)
    return [f"{one}({'failed' if said is None else 'unfulfilled'})" for one, said in found if not said]


def reason(world: World, job: Job) -> str:
    """Why the job waits for another: Dependency, DependencyNeverSatisfied, or ""."""
    said = [_of(world, job, one) for one in job.spec.dependency.split(",") if one]
    if None in said or job.reason == NEVER:  # decided once: the other job may be forgotten since
        return NEVER
    return "" if all(said) else "Dependency"


def _of(world: World, job: Job, one: str) -> bool | None:
    """Fulfilled, not yet, or None for never."""
    if one == "singleton":
        same = (each for each in world.jobs if each.spec.name == job.spec.name and each.id < job.id)
        return not any(each.placed or each.state == "PENDING" for each in same)
    kind, *ids = one.split(":")
    others = [other for job_id in ids for other in world.find(job_id)]
    said = [_fulfilled(kind, other) for other in others]
    return None if None in said else all(said)


def _fulfilled(kind: str, other: Job) -> bool | None:
    if kind == "after":
        return other.state != "PENDING"
    if other.placed or other.state == "PENDING":
        return False
    if kind == "afterany" or (other.state == "COMPLETED") == (kind == "afterok"):
        return True
    return None
