"""The shape of a fake cluster: its nodes, its partitions, and the settings that decide how jobs end.

Pure data. Names follow slurm.conf(5), and so do the defaults, but that the clusters of users are small.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from hpcpools.errors import UsageError


class Node(msgspec.Struct, frozen=True):
    """One node; ``memory`` in MB."""

    name: str
    cpus: int = 8
    memory: int = 4000
    gpus: int = 0


class Partition(msgspec.Struct, frozen=True):
    """``max_time`` and ``grace`` (GraceTime) in seconds; ``preempt_mode``: OFF, REQUEUE or CANCEL."""

    name: str
    nodes: tuple[str, ...]
    default: bool = False
    max_time: int | None = 86400
    tier: int = 1
    preempt_mode: str = "OFF"
    grace: int = 0


_NODES = (Node("g1", gpus=4), Node("g2", gpus=4), Node("c1"), Node("c2"))
_PARTITIONS = (Partition("gpu", ("g1", "g2"), default=True), Partition("cpu", ("c1", "c2")))


class Cluster(msgspec.Struct, frozen=True):
    """One site. ``kill_wait``, ``min_job_age`` and ``requeue_delay`` in seconds.

    ``accounting``: whether sacct works. ``requeue_delay``: how long a requeued job waits before it may start
    again (a credential's lifetime, see AuthInfo). ``preempt_sends_signal``: whether a job's ``--signal``
    comes at preemption. Raises UsageError where a partition has an unknown node.
    """

    name: str = "fake"
    nodes: tuple[Node, ...] = _NODES
    partitions: tuple[Partition, ...] = _PARTITIONS
    accounting: bool = True
    stores_comments: bool = False
    kill_wait: int = 30
    min_job_age: int = 300
    requeue_delay: int = 120
    preempt_type: str = "preempt/none"
    preempt_sends_signal: bool = False
    max_array_size: int = 1001

    def __post_init__(self) -> None:
        known = {node.name for node in self.nodes}
        for partition in self.partitions:
            if not partition.nodes or not known.issuperset(partition.nodes):
                raise UsageError(
                    f"partition {partition.name!r} names nodes that the cluster has not",
                    hint=hostlist(sorted(known)),
                )

    def partition(self, name: str) -> Partition | None:
        """The partition of that name, the default one for ""; None if there is none."""
        return next((each for each in self.partitions if (each.name == name if name else each.default)), None)

    def of(self, partition: Partition) -> tuple[Node, ...]:
        """The nodes of a partition, in the cluster's order."""
        return tuple(node for node in self.nodes if node.name in partition.nodes)


def hostlist(names: Sequence[str]) -> str:
    """``n[1-3,5],c1`` of n1, n2, n3, n5, c1: Slurm's notation for a list of nodes."""
    groups: dict[str, list[str]] = {}
    for name in names:
        found = re.fullmatch(r"(.*?)(\d*)", name)
        groups.setdefault(found[1] if found else name, []).append(found[2] if found else "")
    return ",".join(_group(prefix, numbers) for prefix, numbers in groups.items())


def _group(prefix: str, numbers: list[str]) -> str:
    if len(numbers) == 1:
        return prefix + numbers[0]
    return f"{prefix}[{ranges([int(number) for number in numbers if number])}]"


def ranges(numbers: Sequence[int]) -> str:
    """``1-3,5`` of 1, 2, 3, 5."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
