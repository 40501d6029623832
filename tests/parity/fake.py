"""The stage of the fake Slurm of `hpcpools.testing`, in the shape of the lab."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from hpcpools.testing import Cluster, FakeSlurm, Node, Partition
from tests.cluster.layout import GPUS_PER_NODE
from tests.parity.stage import Stage

KILL_WAIT, GRACE = 5, 2  # seconds, of the lab


class FakeStage(Stage):
    """A fake Slurm that schedules whenever something happened; its clock is moved here alone."""

    name = "fake"
    pace = 0.1

    def __init__(self, slurm: FakeSlurm, folder: Path) -> None:
        super().__init__(folder)
        self.slurm = slurm
        slurm.reaction = 3.0
        self.env = dict(slurm.env)
        self.nodes = tuple(node.name for node in slurm.cluster.nodes)

    def pass_minutes(self, minutes: int) -> None:
        """On the virtual clock."""
        self.slurm.advance(minutes * 60)

    def preempt(self, job: str, mode: Literal["requeue", "cancel"] = "requeue") -> None:
        """The fault, and the time that it takes."""
        if mode == "cancel":
            self.run("scontrol", "update", "partitionname=low", "PreemptMode=cancel", "GraceTime=0")
        self.slurm.preempt(job)
        self.slurm.advance(GRACE + KILL_WAIT)

    def lose_node(self, node: str) -> None:
        """Noticed at once."""
        self.slurm.node_fail(node)

    def repair_node(self, node: str) -> None:
        """In service at once."""
        self.slurm.node_up(node)

    def out_of_memory(self, job: str, go: Path) -> None:
        """The fault, before the job needs anything."""
        self.slurm.out_of_memory(job)
        go.touch()

    @contextlib.contextmanager
    def accepting_without_answer(self) -> Iterator[None]:
        """The next sbatch alone."""
        self.slurm.accept_then_timeout()
        yield

    @contextlib.contextmanager
    def silence(self) -> Iterator[None]:
        """They hang."""
        self.slurm.hang()
        yield
        self.slurm.up()

    def stop_controller(self) -> None:
        """No command gets through."""
        self.slurm.down()

    def start_controller(self) -> None:
        """As before."""
        self.slurm.up()

    def forget(self, job: str) -> None:
        """A node fails, and the job's record with it."""
        node = self.until_state(job, "RUNNING").nodes
        self.slurm.node_fail(node)
        self.slurm.purge(job)
        self.slurm.node_up(node)

    def heal(self) -> None:
        """The whole fake ends with its test."""
        self.slurm.up()


@contextlib.contextmanager
def on_fake(folder: Path, *, accounting: bool = True) -> Iterator[Stage]:
    """Lend a fake Slurm's stage; its processes end with it."""
    names = ("n1", "n2", "n3", "n4") if accounting else ("m1", "m2")
    shape = Cluster(
        accounting=accounting,
        nodes=tuple(Node(name, cpus=8, memory=4000, gpus=GPUS_PER_NODE) for name in names),
        partitions=(
            Partition("gpu", names[:3], default=True, max_time=86400, tier=10, preempt_mode="OFF"),
            Partition("low", names[:3], max_time=86400, tier=1, preempt_mode="REQUEUE", grace=GRACE),
            Partition("cpu", names[3:] or names, max_time=4 * 3600, preempt_mode="REQUEUE"),
        )[: None if accounting else 1],
        kill_wait=KILL_WAIT,
        requeue_delay=0,
        preempt_type="preempt/partition_prio",
        preempt_sends_signal=True,
    )
    with FakeSlurm(folder / "slurm", shape, auto=True) as slurm:
        yield FakeStage(slurm, folder)
