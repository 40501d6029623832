"""The stage of the lab: real Slurm daemons, faults made with signals and scontrol."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

from tests.cluster.cluster import Cluster
from tests.parity.stage import Stage


class RealStage(Stage):
    """A lab; ``heal`` undoes every fault."""

    name = "real"
    pace = 0.5

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        super().__init__(folder)
        self.cluster = cluster
        self.env = dict(cluster.env)
        self.nodes = cluster.nodes
        self._before = frozenset(cluster.jobs())

    def pass_minutes(self, minutes: int) -> None:
        """Real time does."""

    def preempt(self, job: str, mode: Literal["requeue", "cancel"] = "requeue") -> None:
        """Exclusive jobs for all nodes of the upper partition; the last of them needs this one."""
        node = self.until_state(job, "RUNNING").nodes
        if mode == "cancel":
            self.run("scontrol", "update", "partitionname=low", "PreemptMode=cancel", "GraceTime=0")
        upper = self.submit("sleep 1", f"--nodelist={node}", "--exclusive", "--partition=gpu")
        self.until_state(upper, "RUNNING", "COMPLETED", timeout=90)

    def lose_node(self, node: str) -> None:
        """SIGKILL to all that runs there."""
        self.cluster.kill_node(node)

    def repair_node(self, node: str) -> None:
        """Its slurmd starts again."""
        self.cluster.start_node(node)

    def out_of_memory(self, job: str, go: Path) -> None:
        """The job does it, and the kernel."""
        go.touch()

    def accepting_without_answer(self) -> AbstractContextManager[None]:
        """A frozen controller's kernel takes the connection; the controller reads it when it thaws."""
        return self.cluster.controller_paused()

    def silence(self) -> AbstractContextManager[None]:
        """SIGSTOP."""
        return self.cluster.controller_paused()

    def stop_controller(self) -> None:
        """SIGTERM."""
        self.cluster.stop_controller()

    def start_controller(self) -> None:
        """From its saved state."""
        self.cluster.start_controller()

    def forget(self, job: str) -> None:
        """Power cut on the node, and a controller that starts without its saved state."""
        node = self.until_state(job, "RUNNING").nodes
        self.cluster.kill_node(node)
        self.cluster.stop_controller()
        self.cluster.lab.start_controller(forget=True)
        self.cluster.start_node(node)

    def heal(self) -> None:
        """Daemons, the partition, and no job of ours."""
        self.cluster.heal()
        self.run("scontrol", "update", "partitionname=low", "PreemptMode=requeue", "GraceTime=2", check=False)
        self.cluster.cancel_all(keep=self._before)


@contextlib.contextmanager
def on_real(cluster: Cluster, folder: Path) -> Iterator[RealStage]:
    """Lend the lab's stage; healed afterwards."""
    stage = RealStage(cluster, folder)
    try:
        yield stage
    finally:
        stage.heal()
