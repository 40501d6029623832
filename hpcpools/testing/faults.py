"""What a test does to the fake's jobs, and what it breaks in the cluster, until that is undone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from signal import SIGKILL

from hpcpools.errors import NotFoundError, UsageError
from hpcpools.testing import ends, processes
from hpcpools.testing.jobs import Jobs
from hpcpools.testing.world import World


class Faults(Jobs):
    """Verbs on the world; those that users have, too, act as their commands do."""

    # --- what users and administrators do --------------------------------------------------------------

    def cancel(self, job_id: str | int) -> None:
        """scancel."""
        with self._one(job_id) as (world, job):
            ends.cancel(world, job)

    def requeue(self, job_id: str | int) -> None:
        """scontrol requeue. Raises SlurmRefusedError as it does."""
        with self._one(job_id) as (world, job):
            ends.requeue(world, job)

    def hold(self, job_id: str | int) -> None:
        """scontrol hold."""
        with self._one(job_id) as (_, job):
            ends.hold(job)

    def release(self, job_id: str | int) -> None:
        """scontrol release."""
        with self._one(job_id) as (_, job):
            ends.release(job)

    def drain(self, node: str, reason: str = "maintenance") -> None:
        """No new job there; undone by :meth:`node_up`."""
        with self._change() as world:
            world.away[_known(world, node)] = ("drain", reason)

    # --- jobs without processes ------------------------------------------------------------------------

    @property
    def hold_processes(self) -> bool:
        """Whether jobs that start from now on run nothing; the test says how each ends (:meth:`finish`)."""
        return self._store.read().rehearsal

    @hold_processes.setter
    def hold_processes(self, value: bool) -> None:
        with self._change() as world:
            world.rehearsal = value

    def finish(self, job_id: str | int, exit_code: int = 0, signal: int = 0) -> None:
        """End a job that runs without a process. Raises UsageError for any other."""
        with self._one(job_id) as (world, job):
            if not job.rehearsed or not job.placed:
                raise UsageError(f"job {job_id} is not one that the test ends", hint="see hold_processes")
            ends.over(world, job, exit_code << 8 | signal)

    # --- what breaks -----------------------------------------------------------------------------------

    def lag(self, seconds: float, commands: Sequence[str] = ("squeue", "sacct")) -> None:
        """For so many virtual seconds these commands answer as of now; 0 ends it."""
        with self._change() as world:
            world.faults.lag_until = world.now + seconds if seconds else 0.0
            world.faults.lagging = list(commands)
            world.before = copy.deepcopy(world.jobs) if seconds else None
            world.before_past = copy.deepcopy(world.past) if seconds else None

    def accept_then_timeout(self, times: int = 1) -> None:
        """The next sbatch queues its job and fails: "Socket timed out on send/recv operation"."""
        with self._change() as world:
            world.faults.accept = times

    def refuse(self, words: str, times: int = 1) -> None:
        """The next sbatch queues nothing and says ``words``."""
        with self._change() as world:
            world.faults.refuse, world.faults.words = times, words

    def down(self) -> None:
        """slurmctld is gone: every command but sacct fails at once. Jobs go on. Undone by :meth:`up`."""
        self._answers("down")

    def hang(self) -> None:
        """slurmctld does not answer: commands wait until they are ended, or :meth:`up`."""
        self._answers("hangs")

    def up(self) -> None:
        """slurmctld answers again."""
        self._answers("")

    def accounting_down(self) -> None:
        """slurmdbd is gone: sacct fails."""
        with self._change() as world:
            world.faults.accounting = "down"

    def accounting_up(self) -> None:
        """slurmdbd answers again."""
        with self._change() as world:
            world.faults.accounting = ""

    def node_fail(self, node: str) -> None:
        """A power cut: the node is down, its jobs are requeued, or end as NODE_FAIL."""
        with self._change() as world:
            ends.node_fail(world, _known(world, node))

    def node_up(self, node: str) -> None:
        """The node is back in service."""
        with self._change() as world:
            world.away.pop(_known(world, node), None)

    def out_of_memory(self, job_id: str | int) -> None:
        """The kernel kills the running step for its memory, or the script if there is no step."""
        with self._one(job_id) as (world, job):
            job.out_of_memory = True
            if job.rehearsed:
                ends.over(world, job, SIGKILL.value)
            else:
                ends.send(world, job, SIGKILL, whole=all(step.name == "batch" for step in job.steps))

    def forget(self, job_id: str | int) -> None:
        """squeue does not know the job any more, as after MinJobAge; whatever runs of it is ended."""
        with self._change() as world:
            for job in world.find(str(job_id)):
                processes.end(job)
                world.jobs.remove(job)

    def purge(self, job_id: str | int) -> None:
        """Neither squeue nor sacct know the job any more."""
        self.forget(job_id)
        with self._change() as world:
            world.past = [job for job in world.past if str(job_id) not in (job.shown_id, str(job.array))]

    def _answers(self, how: str) -> None:
        with self._change() as world:
            world.faults.controller = how


def _known(world: World, node: str) -> str:
    """Raises NotFoundError for a node that the cluster has not."""
    if node not in {each.name for each in world.cluster.nodes}:
        raise NotFoundError(f"the fake cluster has no node {node!r}", hint="see Cluster.nodes")
    return node
