"""How squeue writes a job, field by field. Pure; what 22.05 prints was read off a real one.

Refuses a field that is not in the table: never an invented answer.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hpcpools.account import user
from hpcpools.errors import UsageError
from hpcpools.testing.cluster import hostlist, ranges
from hpcpools.testing.world import Job, World

Env = Mapping[str, str]
SHORT = {
    "PENDING": "PD", "RUNNING": "R", "COMPLETING": "CG", "COMPLETED": "CD", "CANCELLED": "CA", "FAILED": "F",
    "TIMEOUT": "TO", "NODE_FAIL": "NF", "PREEMPTED": "PR", "OUT_OF_MEMORY": "OOM",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of squeue: a job, or the elements of an array that wait together."""

    job: Job
    world: World
    env: Env
    elements: tuple[int, ...] = ()

    @property
    def id(self) -> str:
        """``7``, ``7_3`` or ``7_[3-5%2]``."""
        if not self.elements:
            return self.job.shown_id
        parallel = f"%{self.job.parallel}" if self.job.parallel else ""
        return f"{self.job.array}_[{ranges(self.elements)}{parallel}]"

    def at(self, moment_: float) -> str:
        """A time of this job."""
        return moment(moment_, self.env)


def moment(at: float, env: Env) -> str:
    """A time; N/A for none. Slurm takes strftime's format from SLURM_TIME_FORMAT."""
    if not at or math.isinf(at):
        return "N/A"
    layout = env.get("SLURM_TIME_FORMAT", "standard")
    return str(int(at)) if layout == "%s" else time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(at))


def clock(seconds: float | None, *, plain: bool = True) -> str:
    """``1-00:00:00``, ``4:00:00``, ``5:00``; with two digits of hours unless ``plain``."""
    if seconds is None:
        return "UNLIMITED"
    days, rest = divmod(int(seconds), 86400)
    hours, rest = divmod(rest, 3600)
    minutes, secs = divmod(rest, 60)
    if days:
        return f"{days}-{hours:02}:{minutes:02}:{secs:02}"
    if not plain:
        return f"{hours:02}:{minutes:02}:{secs:02}"
    return f"{hours}:{minutes:02}:{secs:02}" if hours else f"{minutes}:{secs:02}"


def limit(job: Job, world: World) -> float | None:
    """Seconds that the job may run; its partition's limit where it asked for none."""
    if job.spec.minutes is not None:
        return job.spec.minutes * 60
    partition = world.cluster.partition(job.spec.partition)
    return partition.max_time if partition else None


def elapsed(job: Job, world: World) -> float:
    """Seconds that it ran, in this attempt."""
    if not job.start or job.state == "PENDING":
        return 0
    return (world.now if job.state == "RUNNING" else job.end) - job.start


def _start(row: Row) -> str:
    job = row.job
    if job.state == "PENDING" and not job.completing:
        return row.at(job.begin if job.begin > row.world.now else 0)
    return row.at(job.start)


def _end(row: Row) -> str:
    job = row.job
    if job.state == "PENDING" and not job.completing:
        seconds = limit(job, row.world)
        return row.at(job.begin + seconds if job.begin > row.world.now and seconds else 0)
    return row.at(job.end)


def _nodes_or_reason(row: Row) -> str:
    return hostlist(row.job.nodes) if row.job.nodes else f"({row.job.reason})"


def processors(row: Row) -> str:
    """CPUs that it asked for."""
    return str(row.job.spec.tasks * row.job.spec.cpus_per_task)


JOB: dict[str, Callable[[Row], str]] = {
    "account": lambda row: row.job.spec.account or "(null)",
    "arrayjobid": lambda row: str(row.job.array or row.job.id),
    "arraytaskid": lambda row: "N/A" if row.job.index is None else str(row.job.index),
    "comment": lambda row: row.job.spec.comment or "(null)",
    "command": lambda row: row.job.spec.command,
    "dependency": lambda row: row.job.spec.dependency or "(null)",
    "endtime": _end,
    "exit_code": lambda row: str(row.job.status),
    "jobarrayid": lambda row: row.id,
    "jobid": lambda row: str(row.job.id),
    "name": lambda row: row.job.spec.name,
    "nodelist": lambda row: hostlist(row.job.nodes),
    "numcpus": processors,
    "numnodes": lambda row: str(row.job.spec.nodes),
    "partition": lambda row: row.job.spec.partition,
    "prioritylong": lambda row: "0" if row.job.held else str(row.job.priority),
    "qos": lambda row: row.job.spec.qos,
    "reason": lambda row: row.job.reason,
    "reasonlist": _nodes_or_reason,
    "restartcnt": lambda row: str(row.job.restarts),
    "starttime": _start,
    "state": lambda row: row.job.word,
    "statecompact": lambda row: SHORT[row.job.word],
    "submittime": lambda row: row.at(row.job.submit),
    "timelimit": lambda row: clock(limit(row.job, row.world)),
    "timeused": lambda row: clock(elapsed(row.job, row.world)),
    "username": lambda row: user(),
    "workdir": lambda row: row.job.spec.folder,
}
LETTERS = {
    "A": "jobid", "F": "arrayjobid", "i": "jobarrayid", "K": "arraytaskid", "j": "name", "u": "username",
    "t": "statecompact", "T": "state", "P": "partition", "N": "nodelist", "R": "reasonlist", "r": "reason",
    "M": "timeused", "l": "timelimit", "D": "numnodes", "C": "numcpus", "a": "account", "q": "qos",
    "Q": "prioritylong", "k": "comment", "S": "starttime", "e": "endtime", "V": "submittime", "Z": "workdir",
    "E": "dependency", "o": "command",
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One field of a layout: padded and cut to ``width`` bytes (0: as long as it is), then ``suffix``."""

    name: str
    width: int
    right: bool
    suffix: str

    def write(self, text: str) -> str:
        """One cell."""
        if self.width:
            cut = text.encode(errors="surrogateescape")[: self.width]
            padded = cut.rjust(self.width) if self.right else cut.ljust(self.width)
            text = padded.decode(errors="surrogateescape")  # half a character is printed as it is
        return text + self.suffix


def long_layout(text: str, known: Mapping[str, object]) -> list[Column]:
    """``Name:12,State:.9|``: the layout of ``-O``. Raises UsageError for an unknown field."""
    found = []
    for part in text.split(","):
        name, colon, rest = part.partition(":")
        match = re.fullmatch(r"(\.?)(\d*)(.*)", rest, re.DOTALL)
        right, width, suffix = match.groups() if match else ("", "", "")
        if name.lower() not in known:
            raise UsageError(
                f"Invalid job format specification: {name}", hint="the fake Slurm does not know it"
            )
        found.append(Column(name.lower(), int(width or 20) if colon else 20, bool(right), suffix))
    return found


def short_layout(text: str, letters: Mapping[str, str]) -> tuple[str, list[Column]]:
    """``%.8j %T``: what stands before, and the columns of ``-o``. Raises UsageError."""
    head, *parts = re.split(r"%(?=[.\d]*[A-Za-z])", text)
    found = []
    for part in parts:
        match = re.fullmatch(r"(\.?)(\d*)([A-Za-z])(.*)", part, re.DOTALL)
        if match is None or match[3] not in letters:
            raise UsageError(f"Invalid format specification: %{part}", hint="the fake Slurm does not know it")
        found.append(Column(letters[match[3]], int(match[2] or 0), bool(match[1]), match[4]))
    return head, found
