"""Everything the fake Slurm knows, in one file under one lock: its commands are separate processes.

Owns ``state.json`` and ``lock`` in the fake's folder. Refuses knowledge anywhere else.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from hpcpools.errors import NotFoundError
from hpcpools.testing.cluster import Cluster


class Spec(msgspec.Struct):
    """What sbatch was asked for. ``memory`` in MB per node, 0 for all of it; ``gpus`` per node."""

    name: str
    partition: str
    folder: str
    output: str
    error: str
    comment: str = ""
    nodes: int = 1
    tasks: int = 1
    tasks_per_node: int = 0
    cpus_per_task: int = 1
    gpus: int = 0
    memory: int = 0
    exclusive: bool = False
    minutes: int | None = None
    signal: int = 0
    signal_lead: int = 60
    signal_batch: bool = False
    requeue: bool = True
    append: bool = False
    dependency: str = ""
    nodelist: list[str] = []
    exclude: list[str] = []
    account: str = ""
    qos: str = "normal"
    command: str = ""
    arguments: list[str] = []


class Step(msgspec.Struct):
    """``batch`` or a number. ``pids``: process and its start in ticks (proc(5)), so none else is meant."""

    name: str
    title: str
    start: float
    pids: list[tuple[int, int]] = []
    state: str = "RUNNING"
    code: int = 0
    signal: int = 0
    end: float = 0.0


class Job(msgspec.Struct):
    """One job, or one element of an array. ``status`` is a raw wait status.

    ``completing``: its end is decided, its processes are not over yet. ``attempt``: how accounting calls an
    attempt that the job does not end with (REQUEUED, PREEMPTED, NODE_FAIL). ``kill_at`` and ``evict_at``:
    when SIGKILL comes, and when the grace of a preemption is over. ``rehearsed``: no process runs for it.
    """

    id: int
    spec: Spec
    submit: float
    array: int = 0
    index: int | None = None
    parallel: int = 0
    state: str = "PENDING"
    reason: str = "None"
    held: bool = False
    begin: float = 0.0
    start: float = 0.0
    end: float = 0.0
    restarts: int = 0
    priority: int = 0
    nodes: list[str] = []
    gpus: dict[str, list[int]] = {}
    status: int = 0
    completing: bool = False
    attempt: str = ""
    hold_after: bool = False
    warned: bool = False
    kill_at: float = 0.0
    evict_at: float = 0.0
    out_of_memory: bool = False
    rehearsed: bool = False
    runner: tuple[int, int] = (0, 0)
    steps: list[Step] = []

    @property
    def shown_id(self) -> str:
        """``7`` or ``7_3``."""
        return str(self.id) if self.index is None else f"{self.array}_{self.index}"

    @property
    def placed(self) -> bool:
        """Whether it holds its nodes; ``nodes`` alone also says where it ran."""
        return self.completing or self.state == "RUNNING"

    @property
    def limit(self) -> float:
        """When its time is over; infinity without a limit."""
        return float("inf") if self.spec.minutes is None else self.start + self.spec.minutes * 60

    @property
    def word(self) -> str:
        """The state as squeue shows it."""
        return "COMPLETING" if self.completing else self.state


class Faults(msgspec.Struct):
    """What is broken. ``accept`` and ``refuse`` count the next calls of sbatch."""

    accept: int = 0
    refuse: int = 0
    words: str = ""
    controller: str = ""  # "", "down" or "hangs"
    accounting: str = ""
    lag_until: float = 0.0
    lagging: list[str] = []


class World(msgspec.Struct):
    """The cluster at ``now`` (virtual epoch seconds). ``past``: attempts that are over, for accounting.

    ``away``: node → (state, reason) of those out of service. ``before``: what a lagging answer shows.
    ``signals``: (pid, its start, signal), sent as soon as this is written, so that whoever gets one, our
    own command among them perhaps, finds a world that knows why.
    """

    cluster: Cluster
    now: float
    next_id: int = 1
    auto: bool = False
    rehearsal: bool = False
    jobs: list[Job] = []
    past: list[Job] = []
    away: dict[str, tuple[str, str]] = {}
    faults: Faults = msgspec.field(default_factory=Faults)
    before: list[Job] | None = None
    before_past: list[Job] | None = None
    signals: list[tuple[int, int, int]] = []

    def find(self, job_id: str) -> list[Job]:
        """The job ``7`` or ``7_3``, or all elements of the array ``7``; by Slurm's own number, too."""
        base, _, index = job_id.partition("_")
        if index:
            return [job for job in self.jobs if str(job.array) == base and str(job.index) == index]
        return [job for job in self.jobs if base in (str(job.array), str(job.id))] if base != "0" else []

    def one(self, job_id: str) -> Job:
        """Raises NotFoundError unless it is exactly one job."""
        found = self.find(job_id)
        if len(found) != 1:
            raise NotFoundError(
                f"{job_id} is {len(found)} jobs of the fake Slurm",
                hint="7, or 7_3 for an element of an array",
            )
        return found[0]


class Store:
    """The state in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "state.json"

    @contextlib.contextmanager
    def change(self) -> Iterator[World]:
        """The world, ours alone until the block ends; written unless it raises."""
        fd = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            world = self.read()
            world.signals = []
            yield world
            self.write(world)
            if world.signals:
                from hpcpools.testing import processes

                processes.deliver(world.signals)
        finally:
            os.close(fd)

    def read(self) -> World:
        """The world as last written; writing replaces the file whole."""
        return msgspec.json.decode(self._file.read_bytes(), type=World)

    def write(self, world: World) -> None:
        """Not durable: a fake that a machine's crash ends has no one left to ask."""
        new = self._file.with_suffix(".new")  # of one name: the lock is ours
        new.write_bytes(msgspec.json.encode(world))
        new.replace(self._file)

    def job_folder(self, job: Job) -> Path:
        """Where a job's script and environment lie; elements of an array share them."""
        return self.folder / "jobs" / str(job.array or job.id)
