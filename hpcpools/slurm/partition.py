"""How a partition stands right now: its nodes by state, or who waits in it before a job. One call each.

Asked only by someone who wants an explanation. Refuses to be part of a poll.
"""

from __future__ import annotations

from dataclasses import dataclass

from hpcpools import durations, textsafe
from hpcpools.slurm import records
from hpcpools.slurm.command import Runner

_NODE_FIELDS = (
    ("Partition", 128),
    ("Available", 16),
    ("Time", 24),
    ("StateLong", 32),
    ("Nodes", 12),
    ("NodeList", 256),
    ("Reason", 128),
)
_LINE_FIELDS = (("JobArrayID", 40), ("PriorityLong", 24))


@dataclass(frozen=True)
class Nodes:
    """Nodes in one state. ``state`` is Slurm's word, such as ``drained``; ``reason`` an administrator's."""

    state: str
    count: int
    names: str
    reason: str


@dataclass(frozen=True)
class Standing:
    """``state`` is up, down, drain or inact; ``max_minutes`` None without a limit."""

    name: str
    state: str
    max_minutes: int | None
    nodes: tuple[Nodes, ...]


@dataclass(frozen=True)
class Line:
    """The jobs that wait in a partition: how many, and how many of them have a higher priority than ours."""

    waiting: int
    before: int


def standing(runner: Runner, name: str) -> Standing | None:
    """One ``sinfo``; None if there is no such partition. Raises SlurmUnavailableError, SlurmRefusedError."""
    separator = records.new_separator()
    layout = ",".join(f"{field}:{width}{separator}" for field, width in _NODE_FIELDS)
    answer = runner.run(["sinfo", "--noheader", f"--partition={name}", "-O", layout])
    return parse_standing(answer, separator)


def parse_standing(text: str, separator: str) -> Standing | None:
    """sinfo's lines, one for each state of nodes."""
    rows = records.split(text, separator, [field for field, _ in _NODE_FIELDS])
    if not rows:
        return None
    return Standing(
        textsafe.one_line(rows[0]["Partition"].rstrip("*")),
        textsafe.one_line(rows[0]["Available"]),
        durations.slurm_minutes(rows[0]["Time"]),
        tuple(
            Nodes(
                textsafe.one_line(row["StateLong"].rstrip("*~#!%$@^-")),
                int(row["Nodes"]) if row["Nodes"].isdecimal() else 0,
                textsafe.one_line(row["NodeList"]),
                textsafe.one_line("" if row["Reason"] == "none" else records.word(row["Reason"])),
            )
            for row in rows
            if row["Nodes"] != "0"
        ),
    )


def line(runner: Runner, name: str, job_id: str) -> Line | None:
    """One ``squeue`` over all users' waiting jobs; None if ours is not among them (or we may not see it)."""
    separator = records.new_separator()
    layout = ",".join(f"{field}:{width}{separator}" for field, width in _LINE_FIELDS)
    argv = ["squeue", f"--partition={name}", "--states=PENDING", "--noheader", "-O", layout]
    return parse_line(runner.run(argv), separator, job_id)


def parse_line(text: str, separator: str, job_id: str) -> Line | None:
    """Whose priority is above that of ``job_id`` (an element ``7_3`` waits as part of ``7_[…]``)."""
    rows = records.split(text, separator, [field for field, _ in _LINE_FIELDS])
    priorities = {row["JobArrayID"]: _number(row["PriorityLong"]) for row in rows}
    base = job_id.partition("_")[0]
    mine = [value for name, value in priorities.items() if name == job_id or name.partition("_")[0] == base]
    if not mine:
        return None
    return Line(len(priorities), sum(value > max(mine) for value in priorities.values()))


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0
