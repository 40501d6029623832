"""How a partition stands right now: its nodes by state, or who waits in it before a job. One call each.

Also what its jobs are given before they are preempted. Asked only by someone who wants an explanation or a
check. Refuses to be part of a poll.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

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
_ENDING = {"REQUEUE", "CANCEL"}  # a suspended job goes on later, and need not save
_SETTING = re.compile(r"(\w+)=(\S*)")
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
class Preemption:
    """How a partition's jobs leave for others. ``mode``: Slurm's word, OFF for never; ``grace_s``: GraceTime,
    seconds from the first signal to the end that KillWait then prolongs.

    ``tier`` and ``nodes`` tell who preempts whom where priority decides (preempt/partition_prio).
    """

    name: str
    default: bool
    mode: str
    grace_s: int
    tier: int
    nodes: str


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


def preemption(runner: Runner) -> tuple[Preemption, ...]:
    """One ``scontrol show partition`` for all, the hidden ones too. Raises SlurmUnavailableError."""
    return parse_preemption(runner.run(["scontrol", "--all", "--oneliner", "show", "partition"]))


def parse_preemption(text: str) -> tuple[Preemption, ...]:
    """scontrol's lines, one for each partition; sinfo has no GraceTime."""
    rows = [dict(_SETTING.findall(row)) for row in text.splitlines()]
    return tuple(
        Preemption(
            name=textsafe.one_line(row["PartitionName"]),
            default=row.get("Default") == "YES",
            mode=textsafe.one_line(row.get("PreemptMode", "OFF")),
            grace_s=_number(row.get("GraceTime", "")),
            tier=_number(row.get("PriorityTier", "")),
            nodes=records.word(row.get("Nodes", "")),
        )
        for row in rows
        if "PartitionName" in row
    )


def preemptible(all_of_them: tuple[Preemption, ...], name: str, preempt_type: str) -> Preemption | None:
    """The partition ``name`` ("": the default) if its jobs may be ended for others, else None. Pure.

    ``preempt_type``: the site's PreemptType. By priority: a partition of a higher tier shares a node. By
    quality of service: nobody here knows, so it may be.
    """
    mine = next((each for each in all_of_them if (each.name == name if name else each.default)), None)
    if mine is None or _ENDING.isdisjoint(mine.mode.split(",")) or preempt_type in ("", "preempt/none"):
        return None
    if not preempt_type.endswith("/partition_prio"):
        return mine
    own = set(expand(mine.nodes))
    above = (each for each in all_of_them if each.tier > mine.tier)
    return mine if any(not own.isdisjoint(expand(each.nodes)) for each in above) else None


def expand(hostlist: str) -> Iterator[str]:
    """The names in ``a1,n[1-3,07-08],r[1-2]c[0-1]``: hostlist expressions of slurm.conf(5)."""
    for item in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", hostlist):
        parts = re.split(r"\[([^\]]*)\]", item)
        choices = [list(_numbers(part)) if at % 2 else [part] for at, part in enumerate(parts)]
        yield from map("".join, product(*choices))


def _numbers(ranges: str) -> Iterator[str]:
    for one in ranges.split(","):
        first, dash, last = one.partition("-")
        if not dash or not (first.isdecimal() and last.isdecimal()):
            yield one
        else:
            yield from (f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1))


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
