"""How sacct writes attempts and their steps, field by field. Pure; read off a real Slurm 22.05."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hpcpools.account import user
from hpcpools.testing.cluster import hostlist
from hpcpools.testing.formats import Row, clock, elapsed, processors
from hpcpools.testing.world import Step


@dataclass(frozen=True)
class Record:
    """One line of sacct: an attempt, or one of its steps. ``state``: how accounting calls it."""

    row: Row
    state: str
    step: Step | None = None

    def end(self) -> str:
        """Unknown while it goes on."""
        job, step = self.row.job, self.step
        if step:
            return self.row.at(step.end) if step.end else "Unknown"
        return "Unknown" if self.state in ("PENDING", "RUNNING") else self.row.at(job.end)

    def exit_code(self) -> str:
        """``3:0``; empty for the steps of a lost node."""
        if self.step:
            return "" if self.step.code < 0 else f"{self.step.code & 0x7F}:{self.step.signal}"
        if self.state in ("CANCELLED", "TIMEOUT", "REQUEUED", "PREEMPTED", "NODE_FAIL", "PENDING", "RUNNING"):
            return "0:0"
        if self.state == "OUT_OF_MEMORY":
            return "0:125"
        return (
            f"{self.row.job.status >> 8 & 0x7F}:{self.row.job.status & 0x7F}"  # 137 shows as 9, as in sacct
        )


def _accounted_start(record: Record) -> str:
    if record.step:
        return record.row.at(record.step.start)
    return record.row.at(record.row.job.start) if record.state != "PENDING" else "Unknown"


ACCOUNTING: dict[str, Callable[[Record], str]] = {
    "account": lambda r: r.row.job.spec.account,
    "alloccpus": lambda r: processors(r.row) if r.row.job.nodes else "0",
    "comment": lambda r: r.row.job.spec.comment if r.row.world.cluster.stores_comments and not r.step else "",
    "elapsed": lambda r: clock(elapsed(r.row.job, r.row.world), plain=False),
    "end": Record.end,
    "exitcode": Record.exit_code,
    "jobid": lambda r: r.row.id + (f".{r.step.name}" if r.step else ""),
    "jobidraw": lambda r: str(r.row.job.id) + (f".{r.step.name}" if r.step else ""),
    "jobname": lambda r: r.step.title if r.step else r.row.job.spec.name,
    "nodelist": lambda r: hostlist(r.row.job.nodes) or "None assigned",
    "partition": lambda r: "" if r.step else r.row.job.spec.partition,
    "start": _accounted_start,
    "state": lambda r: r.state + (f" by {os.getuid()}" if r.state == "CANCELLED" and not r.step else ""),
    "submit": lambda r: r.row.at(r.step.start if r.step else r.row.job.submit),
    "user": lambda r: "" if r.step else user(),
}


def records(jobs: Sequence[Row]) -> list[Record]:
    """An attempt and its steps, for each."""
    found = []
    for row in jobs:
        found.append(
            Record(row, row.job.attempt if row.job.completing and row.job.attempt else row.job.state)
        )
        found += [Record(row, step.state, step) for step in row.job.steps]
    return found
