"""What a test does with a running lab: run Slurm commands, break daemons, wait for conditions.
Refuses to sleep for a fixed time, and leaves no daemon broken: `heal` undoes what a test did."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from tests.cluster import processes
from tests.cluster.lab import Lab
from tests.cluster.layout import GPUS_PER_NODE

T = TypeVar("T")


class Cluster:
    """One running lab as the tests see it.

    Attributes:
        conf: path of its slurm.conf.
        env: what a process needs in its environment to talk to it.
        nodes: node names; `gpus_per_node`: GPUs of each; `partition`: the default partition.
        accounting: whether sacct works here.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.conf: Path = lab.conf
        self.env: dict[str, str] = {"SLURM_CONF": str(lab.conf)}
        self.nodes = lab.variant.nodes
        self.partition = lab.variant.partitions[0].split()[0]
        self.gpus_per_node = GPUS_PER_NODE
        self.accounting = lab.variant.accounting

    # --- commands ----------------------------------------------------------------------------------

    def run(self, *argv: str, check: bool = True, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a command with this cluster in its environment and no other SLURM_* variable.

        Raises:
            AssertionError: `check` and it exited non-zero; shows its output.
            subprocess.TimeoutExpired: it took more than `timeout` seconds.
        """
        env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))} | self.env
        done = subprocess.run(
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{argv}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def jobs(self) -> dict[str, str]:
        """Return id and state of every job that has not ended."""
        listing = self.run("squeue", "-h", "-a", "-r", "-o", "%A %T").stdout
        return {job: state for job, _, state in (line.partition(" ") for line in listing.splitlines())}

    def sacct(self, job: str, field: str = "State") -> str:
        """Return one field of the job itself (no steps), stripped; empty while accounting lacks it."""
        return self.run("sacct", "-X", "-n", "-P", "-j", job, "-o", field).stdout.strip()

    def cancel_all(self, keep: frozenset[str] = frozenset()) -> None:
        """Cancel by id every job except `keep`, and wait until they are gone."""
        if not (doomed := self.jobs().keys() - keep):
            return
        # A job that ended in between makes scancel complain: what counts is that none is left.
        self.run("scancel", *sorted(doomed, key=int), check=False)

        def gone() -> bool:
            return not self.jobs().keys() & doomed

        with contextlib.suppress(AssertionError):
            self.wait(gone, 30)
        if (
            not gone()
        ):  # a slurmd that was killed while it ended a job may never say so; of a node that is down
            # nobody expects it
            for node in self.nodes:
                if "COMPLETING" in self.run("scontrol", "-o", "show", "node", node).stdout:
                    self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=stuck")
                    self.run("scontrol", "update", f"nodename={node}", "state=resume")
        self.wait(gone, 40, f"jobs {sorted(doomed)} are gone")

    def wait(self, predicate: Callable[[], T], timeout: float = 30, what: str = "condition") -> T:
        """Poll until `predicate` returns something true, and return that.

        Raises:
            AssertionError: not within `timeout` seconds; shows the queue and the nodes.
        """
        deadline = time.monotonic() + timeout
        while not (value := predicate()):
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {timeout:g} s: {what}\n{self._picture()}")
            time.sleep(0.1)
        return value

    # --- the controller ------------------------------------------------------------------------------

    def pause_controller(self) -> None:
        """Freeze slurmctld: it accepts connections and never answers."""
        self._signal_controller(signal.SIGSTOP)

    def resume_controller(self) -> None:
        """Let a frozen slurmctld go on."""
        self._signal_controller(signal.SIGCONT)

    @contextlib.contextmanager
    def controller_paused(self) -> Iterator[None]:
        """Keep slurmctld frozen inside the block."""
        self.pause_controller()
        try:
            yield
        finally:
            self.resume_controller()

    def stop_controller(self, signum: int = signal.SIGTERM) -> None:
        """Stop slurmctld (cleanly, unless `signum` says SIGKILL): connections are refused from now on."""
        self.lab.stop_controller(signum)

    def start_controller(self) -> None:
        """Start slurmctld again and wait until it answers."""
        self.lab.start_controller()

    # --- the nodes -------------------------------------------------------------------------------------

    def kill_node(self, node: str) -> None:
        """SIGKILL everything that runs on the node, as a power cut would."""
        self.lab.kill_node(node)

    def start_node(self, node: str) -> None:
        """Start the node's slurmd and wait until the controller has it in service."""
        self.lab.start_node(node)
        self.wait(lambda: self._in_service(node), 30, f"node {node} is back")

    # --- after a test ------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Bring back whatever daemon a test left frozen, stopped or killed, and undrain nodes."""
        if self.lab.controller() is None:
            self.start_controller()
        self.resume_controller()
        alive = processes.members(self.conf)
        for node in self.nodes:
            if not any(p.name == "slurmd" for p in processes.on_node(node, alive)):
                self.start_node(node)
            elif (
                "drain"
                in self.run("scontrol", "-o", "show", "node", node).stdout.lower().partition("state=")[2]
            ):
                self.run("scontrol", "update", f"nodename={node}", "state=resume")

    def _signal_controller(self, signum: int) -> None:
        controller = self.lab.controller()
        if controller is None or not processes.send(controller, signum):
            raise AssertionError("slurmctld of the lab does not run")

    def _in_service(self, node: str) -> bool:
        state = self.lab.node_states().get(node, "down")
        return not any(bad in state for bad in ("down", "unk", "inval", "fail", "*"))

    def _picture(self) -> str:
        shown = [self.run(*argv, check=False) for argv in (("squeue", "-l", "-a"), ("sinfo", "-N", "-l"))]
        return "".join(done.stdout + done.stderr for done in shown)
