"""One batch as the lane sees it: what is settled, what Slurm says of its job, and what that means.

Owns the decision that a Slurm job is over. Refuses to call one over on silence: Slurm must say so, or answer
for a while without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hpcpools.config import Config
from hpcpools.runs.batches import Batch, BatchDirectory, Carried
from hpcpools.slurm import states
from hpcpools.training.watch import Poll

FENCE = 5.0  # seconds for a node that Slurm lost, but that still works, to notice that its task was given up
ABSENT = "no record in Slurm"


@dataclass
class InFlight:
    """A batch with jobs that are not settled in Redis. ``over``: why nothing of its Slurm job is left."""

    place: BatchDirectory
    batch: Batch
    job_id: str = ""
    settled: set[int] = field(default_factory=set)
    over: str = ""

    @property
    def unsettled(self) -> list[tuple[int, Carried]]:
        """Numbers and jobs."""
        return [(n, job) for n, job in enumerate(self.batch.jobs) if n not in self.settled]

    @property
    def held(self) -> set[tuple[str, str, str]]:
        """(queue, job, execution) of what is not settled."""
        return {(job.queue, job.id, job.execution) for _, job in self.unsettled}

    @property
    def ids(self) -> dict[str, str | None]:
        """By what the events about it and its jobs are joined with others."""
        return {"batch": self.place.token, "slurm_job": self.job_id or None}

    def look(self, config: Config, poll: Poll) -> None:
        """Take in one answer of Slurm; a job that sbatch was not clear about is known from here on."""
        listed = poll.batches.get(self.place.token)
        if listed and not self.job_id:
            self.job_id = str(listed["job_id"])
            self.place.submitted(self.job_id, poll.at)
        self.over = self.over or ended(config, self, poll)

    def give_up(self) -> None:
        """Its Slurm job is over: what never started never will, what did is lost unless its end is there."""
        progress = bool(self.place.ended() or any(self.place.started(n) for n in self.place.claimed()))
        preempted = self.over == "PREEMPTED"
        for number, _job in self.unsettled:
            where = f"its Slurm job {self.job_id or '(unknown)'} ended ({self.over})"
            # Each such end counts against what ran, and against all if the job could not even begin.
            if self.place.withdraw(
                number, "returned", reason=f"{where} before it started", count=not (progress or preempted)
            ):
                continue
            fence = FENCE if self.over in (ABSENT, "NODE_FAIL") else 0.0
            self.place.end(number, "lost", reason=f"{where} while it ran", count=not preempted, fence=fence)


def ended(config: Config, batch: InFlight, poll: Poll) -> str:
    """Why nothing of the batch's Slurm job is left; empty if it may still run, or nobody can say. Pure."""
    listed = poll.batches.get(batch.place.token)
    if listed:
        word = states.meaning(str(listed["state"]))
        return word.word if word.phase == "ended" and not word.flag else ""
    since = poll.absent.get(batch.place.token)
    if since is None:
        return ""
    # Without an id sbatch was not clear. The job may still turn up: it will find nothing left to start.
    patience = config.slurm.lost_after if batch.job_id else config.slurm.submit_lookups[-1]
    return ABSENT if poll.at - max(since, batch.batch.created) >= patience else ""
