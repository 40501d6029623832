"""A stage: one cluster as the parity tests see it, real or fake, with the same verbs on both.

Whoever uses it cannot tell which of the two it is. Facts come from Slurm's own commands, through the code
that hpcpools itself uses; only the faults know how they are made.
"""

from __future__ import annotations

import os
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, TypeVar

from hpcpools.slurm import accounting, queue, states
from hpcpools.slurm.command import Runner

T = TypeVar("T")


class Stage(ABC):
    """One cluster. ``env`` is what a process needs to reach it.

    Its nodes, partitions and limits are those of the lab (tests/cluster/layout.py) on every stage.
    """

    name: str
    env: dict[str, str]
    nodes: tuple[str, ...]
    partition = "gpu"
    gpus_per_node = 4
    pace: float  # seconds from step to step of a training that shall outlast a minute of Slurm's time

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    # --- Slurm's commands ----------------------------------------------------------------------------

    @property
    def runner(self) -> Runner:
        """What hpcpools itself runs Slurm's commands with."""
        return Runner({**os.environ, **self.env}, timeout=20.0)

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one command of Slurm; with ``check`` it must succeed."""
        done = subprocess.run(
            argv,
            env=self.runner.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert not check or done.returncode == 0, (
            f"{argv}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done

    def submit(self, script: str, *options: str) -> str:
        """sbatch of a script of these lines; the job id. Its output goes to ``out.ID`` in ``folder``."""
        path = self.folder / "job.sh"
        path.write_text(f"#!/bin/bash\n{script}\n")
        return self.run("sbatch", "--parsable", "--output=out.%j", *options, str(path)).stdout.strip()

    def jobs(self) -> dict[str, queue.Job]:
        """What hpcpools reads from squeue."""
        return {job.job_id: job for job in queue.snapshot(self.runner).jobs}

    def living(self) -> list[str]:
        """The ids of the jobs that have not ended."""
        return [one.job_id for one in self.jobs().values() if states.meaning(one.state).phase != "ended"]

    def history(self, job: str, since: float | None = None) -> list[accounting.AccountedJob]:
        """What hpcpools reads from sacct: the attempts of a job, oldest first."""
        since = time.time() - 1800 if since is None else since
        return [one for one in accounting.history(self.runner, since).jobs if one.job_id == job]

    def queued(self, job: str) -> str:
        """squeue's record in short; see :func:`told`."""
        found = self.jobs().get(job)
        return told(found) if found else ""

    def accounted(self, job: str) -> list[str]:
        """sacct's records in short, one for each attempt; see :func:`told`."""
        return [told(one) for one in self.history(job)]

    # --- waiting ---------------------------------------------------------------------------------------

    def until(self, found: Callable[[], T], what: str, timeout: float = 60) -> T:
        """Wait until ``found`` gives something true, and return that."""
        deadline = time.monotonic() + timeout
        while not (value := found()):
            assert time.monotonic() < deadline, (
                f"never: {what}\n{self.run('squeue', '-l', check=False).stdout}"
            )
            time.sleep(0.1)
        return value

    def until_state(self, job: str, *states: str, timeout: float = 60) -> queue.Job:
        """Wait until squeue shows a job in one of ``states``."""

        def found() -> queue.Job | None:
            one = self.jobs().get(job)
            return one if one and one.state in states else None

        job_in_it = self.until(found, f"{job} in {states}", timeout)
        assert job_in_it is not None
        return job_in_it

    def until_accounted(self, job: str, *told: str, timeout: float = 60) -> None:
        """Wait until sacct, which lags behind, tells just this of a job."""
        seen: list[str] = []

        def same() -> bool:
            seen[:] = self.accounted(job)
            return seen == list(told)

        try:
            self.until(same, "", timeout)
        except AssertionError:
            assert seen == list(told)

    # --- time and faults ---------------------------------------------------------------------------------

    @abstractmethod
    def pass_minutes(self, minutes: int) -> None:
        """That much of Slurm's time passes; where it does so by itself, this returns at once."""

    @abstractmethod
    def preempt(self, job: str, mode: Literal["requeue", "cancel"] = "requeue") -> None:
        """A job of the upper partition takes the node of ``job``, which is in ``low``, and ends soon."""

    @abstractmethod
    def lose_node(self, node: str) -> None:
        """A power cut; Slurm notices when the node has been silent for long enough."""

    @abstractmethod
    def repair_node(self, node: str) -> None:
        """The node is back in service."""

    @abstractmethod
    def out_of_memory(self, job: str, go: Path) -> None:
        """The kernel kills the step of ``job``, which needs too much once ``go`` is there; now it is."""

    @abstractmethod
    def accepting_without_answer(self) -> AbstractContextManager[None]:
        """Inside the block sbatch fails with a time-out, and yet the job is there afterwards."""

    @abstractmethod
    def silence(self) -> AbstractContextManager[None]:
        """Inside the block commands get no answer from the controller."""

    @abstractmethod
    def stop_controller(self) -> None:
        """Connections are refused from now on."""

    @abstractmethod
    def start_controller(self) -> None:
        """It answers again, and knows what it knew."""

    @abstractmethod
    def heal(self) -> None:
        """Undo every fault, and leave no job."""

    @abstractmethod
    def forget(self, job: str) -> None:
        """Slurm kills the job and has no record of it any more, as after a lost state directory."""


def told(record: queue.Job | accounting.AccountedJob | accounting.Step) -> str:
    """A record in one line that is the same on every cluster: times and nodes only by being there.

    sacct gives some jobs that never started a start, and some not: without nodes it says nothing.
    """
    words = [record.name, record.state] if isinstance(record, accounting.Step) else [record.state]
    words += [reason] if (reason := getattr(record, "reason", "")) else []
    for name, word in (("exit_code", "exit"), ("signal", "signal"), ("restarts", "restarts")):
        value = getattr(record, name, None)
        if value is not None and (value or name != "restarts"):
            words.append(f"{word}={value}")
    times = ("submit", "start", "end", "nodes") if getattr(record, "nodes", "") else ("submit", "end")
    words += [name for name in times if getattr(record, name, None)]
    words += [f"[{told(step)}]" for step in getattr(record, "steps", ())]
    return " ".join(words)
