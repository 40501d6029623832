"""What a task needs, how long it will take, and which tasks share a Slurm job: pure decisions.

Refuses tasks that cannot leave the login node, and groups that hold more, or longer, than the config says.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hpcpools.catalog import BUILT_IN, Catalog, Entry
from hpcpools.config import Config
from hpcpools.declare import TaskDeclaration, mebibytes
from hpcpools.errors import RefusedError
from hpcpools.runs.batches import Carried

RUNNER = f"{BUILT_IN}:run_call"  # a stage of a pipeline, or an evaluation: it calls the task it names
START = 60.0  # seconds a job may take to start, import and end, beside its tasks
SAMPLES = 20  # the newest so many durations of a task are kept
ENOUGH = 3  # durations from which on they are believed


@dataclass(frozen=True)
class Needs:
    """What a Slurm job must have for a task; ``mem`` in MiB. Equal needs may share a job."""

    partition: str
    gpus: int
    cpus: int
    mem: int


@dataclass
class Group:
    """Jobs for one batch. ``expected``: seconds of each; ``longest``: the greatest limit of one."""

    needs: Needs
    jobs: list[Carried] = field(default_factory=list)
    expected: list[float] = field(default_factory=list)
    longest: float = 0.0

    @property
    def minutes(self) -> int:
        """Wall time of its Slurm job."""
        return math.ceil(_seconds(self.expected, self.longest) / 60)

    def add(self, job: Carried, expected: float) -> None:
        """Take one more."""
        self.jobs.append(job)
        self.expected.append(expected)
        self.longest = max(self.longest, job.timeout)

    def is_full(self, config: Config) -> bool:
        """Whether it may take no more."""
        return len(self.jobs) >= config.lane.group or sum(self.expected) >= config.lane.group_time

    def has_room(self, config: Config, expected: float, limit: float) -> bool:
        """Whether a task of that length and limit may join, also in the time that the partition gives."""
        allowed = longest_time(config, self.needs.partition)
        total = _seconds([*self.expected, expected], max(self.longest, limit))
        return not self.is_full(config) and (allowed is None or total <= allowed)


def _seconds(expected: Sequence[float], longest: float) -> float:
    """What is expected of all but one, and for that one the longest limit: each task has its limit whole."""
    return sum(expected) - min(expected, default=0.0) + longest + START


def longest_time(config: Config, partition: str) -> float | None:
    """Seconds that a job may run in a partition; None if that is not configured."""
    known = config.training.partitions.get(partition)
    return None if known is None or known.max_time is None else float(known.max_time)


def carried_task(listed: Catalog, entry: Entry, arguments: Mapping[str, object]) -> Entry:
    """The task that decides what is needed. Raises RefusedError for one that no compute node can run."""
    if entry.name == RUNNER:
        return listed.short(str(arguments.get("task", "")))
    if entry.name.startswith(f"{BUILT_IN}:"):
        raise RefusedError(
            f"{entry.name} works on Redis, which compute nodes never open", hint="leave it to the workers"
        )
    return entry


def needs(config: Config, entry: Entry, limit: float) -> Needs:
    """What the lane asks Slurm for; ``limit`` of the task in seconds.

    Raises RefusedError for one that the partition does not give.
    """
    declared, lane = entry.declaration, config.lane
    assert isinstance(declared, TaskDeclaration)  # noqa: S101  (Catalog.short returns only these)
    partition = (lane.gpu_partition if declared.gpus else "") or lane.partition
    allowed = longest_time(config, partition)
    if allowed is not None and _seconds((), limit) > allowed:  # Slurm may let it wait for ever
        raise RefusedError(
            f"its timeout of {limit:g} s does not fit into partition {partition}'s limit of {allowed:g} s",
            hint="give it a shorter timeout, or make it a training",
        )
    return Needs(
        partition,
        declared.gpus,
        declared.cpus or lane.cpus,
        declared.mem or mebibytes(lane.mem),
    )


def expected(times: Mapping[str, Sequence[float]], task: str, limit: float) -> float:
    """Seconds that a task will take: the median of its last runs, or its limit while too few are known."""
    known = times.get(task, ())
    return min(limit, statistics.median(known)) if len(known) >= ENOUGH else limit


def remember(times: dict[str, list[float]], task: str, seconds: float) -> None:
    """Add one measured duration."""
    times[task] = [*times.get(task, []), round(seconds, 3)][-SAMPLES:]
