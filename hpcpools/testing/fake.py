"""The fake as a test holds it: a folder with commands for PATH, the virtual clock, and the faults.

Owns the folder and every process of its jobs until :meth:`FakeSlurm.close`. Real time never moves the clock;
what a real process does by itself (it starts, it ends) is waited for with :meth:`FakeSlurm.wait`.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from hpcpools import interpreter
from hpcpools.errors import UnavailableError
from hpcpools.testing import clock, commands, ends, processes
from hpcpools.testing.cluster import Cluster
from hpcpools.testing.faults import Faults
from hpcpools.testing.world import Faults as Broken
from hpcpools.testing.world import Job, World
from hpcpools.training import nodeenv


class FakeSlurm(Faults):
    """One cluster in ``folder``, which is made. A context manager; :meth:`close` ends all of its processes.

    ``auto``: every command, and every end of a process, is followed by a scheduling pass; otherwise jobs
    start only in :meth:`start` and :meth:`advance`. ``reaction``: how many real seconds a process has to
    react to a signal before virtual time goes on; never more than the virtual seconds that it would have.
    """

    def __init__(self, folder: Path, cluster: Cluster | None = None, *, auto: bool = False) -> None:
        super().__init__(folder.absolute())
        self.bin = self.folder / "bin"
        self.reaction = 5.0
        self.folder.mkdir(mode=0o700, parents=True)
        self.bin.mkdir()
        (self.folder / "jobs").mkdir(mode=0o700)
        (self.folder / "slurm.conf").write_text("# a fake Slurm: hpcpools.testing\n")
        self._store.write(World(cluster or Cluster(), float(int(time.time())), auto=auto))
        for name in commands.NAMES:
            words = interpreter.argv("hpcpools.testing.commands", str(self.folder), name)
            script = self.bin / name
            script.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
            script.chmod(0o755)

    def __enter__(self) -> FakeSlurm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def env(self) -> dict[str, str]:
        """What a process needs in its environment to use this Slurm."""
        return {
            "PATH": os.pathsep.join([str(self.bin), nodeenv.variable("PATH") or os.defpath]),
            "SLURM_CONF": str(self.folder / "slurm.conf"),
        }

    @property
    def cluster(self) -> Cluster:
        """Its shape."""
        return self._store.read().cluster

    @property
    def auto(self) -> bool:
        """See the class."""
        return self._store.read().auto

    @auto.setter
    def auto(self, value: bool) -> None:
        with self._change() as world:
            world.auto = value

    def start(self) -> None:
        """One scheduling pass; time stands still."""
        self.advance(0)

    def advance(self, seconds: float) -> None:
        """Let virtual time go on by ``seconds``; all that is due by then happens, in order."""
        target = self.now + seconds
        while True:
            self._settle_those_before(target)
            with self._change() as world:
                signalled = clock.step(world, self.folder, target)
                if signalled is None:
                    return
                ids = [job.id for job in signalled if not job.rehearsed]
                left = [min(clock.due(world, job), target) - world.now for job in signalled]
            self._react(ids, max(left, default=0.0))

    def preempt(self, job_id: str | int) -> None:
        """The job has to leave for another one: its warning now, its end after the partition's grace."""
        self._settle(self._store.read().one(str(job_id)).id)
        with self._one(job_id) as (world, job):
            ends.preempt(world, job)

    def close(self) -> None:
        """End every process of every job. Raises UnavailableError if one does not go."""
        with self._store.change() as world:
            world.auto, world.faults = False, Broken()  # a command that hangs ends, too
            stay = [job.shown_id for job in world.jobs if not processes.end(job)]
            for job in world.jobs:
                job.completing = False
                job.state = "CANCELLED" if job.state in ("PENDING", "RUNNING") else job.state
        if stay:
            raise UnavailableError(f"processes of job {', '.join(stay)} stay", hint="look for state D in ps")

    # --- real time, that real processes need ------------------------------------------------------------

    def _settle_those_before(self, target: float) -> None:
        """Those whose next event, by ``target``, comes first of all."""
        world = self._store.read()
        moment = min((clock.due(world, job) for job in world.jobs), default=target + 1)
        for job in world.jobs:
            if job.state == "RUNNING" and clock.due(world, job) == moment <= target:
                self._settle(job.id)

    def _settle(self, number: int) -> None:
        """A program that has just been started may still put its handler up: wait until the job's signal is
        caught, or the job ``reaction`` seconds old."""

        def caught() -> bool:
            job = self._by_number(number)
            if job is None or job.state != "RUNNING" or _listens(job):
                return True
            return processes.age(job.runner) > self.reaction

        _until(caught, self.reaction)

    def _react(self, ids: Sequence[int], room: float) -> None:
        """After a signal: until its processes are gone, or the next one is due. After SIGKILL they do go."""

        def gone() -> bool:
            jobs = {job.id: job for job in self._store.read().jobs}
            return not any(jobs[number].placed for number in ids if number in jobs)

        jobs = [self._by_number(number) for number in ids]
        killed = any(job is not None and job.completing and not job.kill_at for job in jobs)
        _until(gone, 10.0 if killed else min(self.reaction, room))


def _until(done: Callable[[], bool], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not done() and time.monotonic() < deadline:
        time.sleep(0.02)


def _listens(job: Job) -> bool:
    """Whether a process of the job catches the signal that it asked for; without one, whether it began."""
    if job.rehearsed or not job.spec.signal:
        return job.rehearsed or bool(job.steps)
    return processes.catches(job, job.spec.signal)
