"""What the site offers: partitions, GPUs on their nodes, and the settings that decide how jobs end.

Read by one sinfo and one scontrol. Refuses to guess: an unset limit is None.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from hpcpools import durations, textsafe
from hpcpools.slurm import records
from hpcpools.slurm.command import Runner

_FIELDS = (
    ("Partition", 128),
    ("Available", 16),
    ("Time", 24),
    ("DefaultTime", 24),
    ("Nodes", 12),
    ("CPUs", 16),
    ("Memory", 24),
    ("Gres", 512),
)
_SETTING = re.compile(r"^(\w+)\s*= ?(.*?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Partition:
    """A partition and what *every* node of it has: the least of the CPUs, memory and GPUs of its nodes.

    ``gpus_per_node`` is the least count above 0, which any GPU node of the partition can satisfy; 0 if no
    node has one. ``state`` is up, down, drain or inact. Limits in minutes, None for none.
    """

    name: str
    default: bool
    nodes: int
    gpus_per_node: int
    cpus_per_node: int
    memory_mb: int
    max_minutes: int | None
    default_minutes: int | None
    state: str


@dataclass(frozen=True)
class Site:
    """One cluster. Lengths of time in seconds."""

    cluster_name: str
    version: str
    partitions: tuple[Partition, ...]
    has_accounting: bool
    stores_comments: bool
    kill_wait_s: int
    min_job_age_s: int
    job_requeue: bool
    preempt_mode: str
    preempt_type: str
    preempt_sends_signal: bool
    max_array_size: int

    def partition(self, name: str = "") -> Partition | None:
        """The partition of that name, the default one for ""; None if there is none."""
        return next((each for each in self.partitions if (each.name == name if name else each.default)), None)


def read_site(runner: Runner) -> Site:
    """Raises SlurmUnavailableError."""
    separator = records.new_separator()
    partitions = parse_partitions(runner.run(sinfo_argv(separator)), separator)
    return read_settings(runner, partitions)


def read_settings(runner: Runner, partitions: tuple[Partition, ...] = ()) -> Site:
    """The settings alone, one ``scontrol``. Raises SlurmUnavailableError."""
    return parse_config(runner.run(["scontrol", "show", "config"]), partitions)


def sinfo_argv(separator: str) -> list[str]:
    """The command whose output :func:`parse_partitions` reads with the same ``separator``."""
    layout = ",".join(f"{name}:{width}{separator}" for name, width in _FIELDS)
    return ["sinfo", "--noheader", "--exact", "-O", layout]


def parse_partitions(text: str, separator: str) -> tuple[Partition, ...]:
    """sinfo's lines, one for each kind of node, folded into partitions; in sinfo's order."""
    kinds: dict[str, list[dict[str, str]]] = {}
    for row in records.split(text, separator, [name for name, _ in _FIELDS]):
        kinds.setdefault(row["Partition"], []).append(row)
    return tuple(_partition(name, rows) for name, rows in kinds.items())


def parse_config(text: str, partitions: tuple[Partition, ...]) -> Site:
    """The settings in ``scontrol show config``."""
    said = {name: records.word(value) for name, value in _SETTING.findall(text)}
    storage = said.get("AccountingStorageType", "")
    signals = f"{said.get('SlurmctldParameters', '')},{said.get('PreemptParameters', '')}"
    return Site(
        cluster_name=textsafe.one_line(said.get("ClusterName", "")),
        version=textsafe.one_line(said.get("SLURM_VERSION", "")),
        partitions=partitions,
        has_accounting=bool(storage) and not storage.endswith("/none"),
        stores_comments="job_comment" in said.get("AccountingStoreFlags", "").split(","),
        kill_wait_s=_number(said.get("KillWait", ""), 30),
        min_job_age_s=_number(said.get("MinJobAge", ""), 300),
        job_requeue=said.get("JobRequeue") == "1",
        preempt_mode=said.get("PreemptMode", "OFF"),
        preempt_type=said.get("PreemptType", ""),
        preempt_sends_signal=bool({"send_user_signal", "preempt_send_user_signal"} & set(signals.split(","))),
        max_array_size=_number(said.get("MaxArraySize", ""), 1001),
    )


def gpu_count(gres: str) -> int:
    """The GPUs in a node's GRES text.

    ``gpu:4`` → 4, ``gpu:a100:4(S:0-1),gpu:h100:4,shard:16`` → 8, ``gpu`` → 1, ``(null)`` → 0.
    """
    plain = re.sub(r"\([^)]*\)", "", gres)  # "(S:0,2)", sockets, may hold commas
    return sum(_count(item) for item in plain.split(",") if item.partition(":")[0].strip() == "gpu")


def _count(item: str) -> int:
    last = item.rpartition(":")[2].strip()
    return int(last) if last.isdecimal() else 1


def _partition(shown: str, rows: list[dict[str, str]]) -> Partition:
    first, populated = rows[0], [row for row in rows if _number(row["Nodes"], 0)]
    return Partition(
        name=textsafe.one_line(shown.rstrip("*")),
        default=shown.endswith("*"),
        nodes=sum(_number(row["Nodes"], 0) for row in populated),
        gpus_per_node=_least(gpu_count(row["Gres"]) for row in populated),
        cpus_per_node=_least(_number(row["CPUs"], 0) for row in populated),
        memory_mb=_least(_number(row["Memory"], 0) for row in populated),
        max_minutes=durations.slurm_minutes(first["Time"]),
        default_minutes=durations.slurm_minutes(first["DefaultTime"]),
        state=textsafe.one_line(first["Available"]),
    )


def _least(numbers: Iterable[int]) -> int:
    return min((number for number in numbers if number), default=0)


def _number(text: str, otherwise: int) -> int:
    """The number that ``text`` begins with: ``30 sec``, ``8+``."""
    found = re.match(r"\d+", text.strip())
    return int(found.group()) if found else otherwise
