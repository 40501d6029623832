"""A site's own sbatch script as a training's parameters: its options, and its shell lines as set-up.

The last command of the script makes room for the training. Refuses, with the line's number, whatever
contradicts exclusive nodes with one task each, and whatever would run instead of the training.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hpcpools import durations
from hpcpools.errors import UsageError
from hpcpools.templates.script import header_length, option_value
from hpcpools.textsafe import one_line
from hpcpools.training.plan import Options

_SHORT = {
    **{"A": "account", "C": "constraint", "D": "chdir", "G": "gpus", "J": "job-name", "L": "licenses"},
    **{"N": "nodes", "O": "overcommit", "S": "core-spec", "a": "array", "b": "begin", "c": "cpus-per-task"},
    **{"d": "dependency", "e": "error", "m": "distribution", "n": "ntasks", "o": "output", "p": "partition"},
    **{"q": "qos", "s": "oversubscribe", "t": "time", "w": "nodelist", "x": "exclude"},
}
# Options that concern neither what a run is given nor how we start it.
# fmt: off
PASSED = frozenset((
    "acctg-freq", "begin", "contiguous", "cpu-freq", "deadline",
    "delay-boot", "dependency", "distribution", "gpu-bind", "gpu-freq",
    "gres-flags", "hint", "licenses", "mail-type", "mail-user",
    "network", "nice", "power", "prefer", "priority",
    "profile", "reservation", "sockets-per-node", "spread-job", "switches",
    "threads-per-core", "tmp", "use-min-nodes", "wckey",
))
# fmt: on
OURS = {
    **dict.fromkeys(("output", "error", "open-mode"), "each attempt has a log of its own: hpcpools logs RUN"),
    "signal": "training.signal_lead says how early a training is warned",
    "comment": "the run's token stands there",
}
REFUSED = {
    "array": "one run is one job; `hpcpools sweep` makes arrays",
    "oversubscribe": "a training has its nodes for itself",
    "overcommit": "there is one task on each node",
    "no-requeue": "a preempted training is requeued; --restart preemption=0 forbids it",
    "chdir": "the training starts where `hpcpools train` is called; cd there",
    "export": "training.keep_env in hpcpools.toml says which variables go along",
    "exclude": "bad nodes are avoided by themselves; `hpcpools nodes --report NODE` names one",
    "nodelist": "a run must be able to start elsewhere again; use constraint or reservation",
    "core-spec": "all CPUs of the node are given; take the line out",
    "wrap": "the command stands on hpcpools' own command line",
    **dict.fromkeys(("mem-per-cpu", "mem-per-gpu"), "all memory of the node is given; take the line out"),
    **dict.fromkeys(
        ("ntasks-per-core", "ntasks-per-gpu", "ntasks-per-socket"), "there is one task on each node"
    ),
}
_FLAGS = frozenset(
    (
        "contiguous",
        "exclusive",
        "no-requeue",
        "overcommit",
        "oversubscribe",
        "requeue",
        "spread-job",
        "use-min-nodes",
    )
)
# Programs that are the job's work, not its preparation.
_WORK = re.compile(
    r"(?:\w+=\S*\s+|time\s+)*(?:\S*/)?"
    r"(srun|mpirun|mpiexec|torchrun|python[0-9.]*|accelerate|deepspeed|sbatch|"
    r"exec(?=\s+[\"$/A-Za-z]))\b"  # not its other use, of redirecting
)
_GPU_TYPE = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,63})?")
_HARMLESS = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]{0,4096}")


@dataclass
class Foreign:
    """What a script says: ``options`` for the plan, and ``notes`` for people on what is left out."""

    options: Options
    notes: list[str] = field(default_factory=list)

    def under(self, given: Options) -> Options:
        """``given`` (the command line), and where it is silent what the script says."""
        unset = Options()
        silent = {
            item.name: getattr(self.options, item.name)
            for item in dataclasses.fields(Options)
            if getattr(given, item.name) == getattr(unset, item.name)
        }
        return dataclasses.replace(given, **silent)


def read(name: str, text: str, nodes: int | None = None) -> Foreign:
    """The script ``text``; ``name``: for messages; ``nodes``: as the command line says. Raises UsageError."""
    lines = text.split("\n")
    if not re.fullmatch(r"#!\s*(?:/\S+/)?(?:env\s+)?(?:bash|sh)(?:\s+-\S+)*\s*", lines[0]):
        raise UsageError(f"{name}:1: {one_line(lines[0], 60)!r} starts no bash", hint="#!/bin/bash")
    at = header_length(lines)
    reader = _Reader(name, nodes)
    for number, option, value in _directives(name, lines[:at]):
        reader.take(number, option, value)
    found = reader.finish()
    login = ["source /etc/profile"] if re.search(r"\s(-\w*l|--login)\b", lines[0]) else []
    setup = [*login, *_setup(name, lines, at)]
    found.options = dataclasses.replace(found.options, setup=tuple(setup))
    found.notes += [
        f"{name}:{number}: sbatch reads no #SBATCH line after the first command"
        for number, line in enumerate(lines[at:], at + 1)
        if line.startswith("#SBATCH")
    ]
    return found


def _directives(name: str, header: list[str]) -> Iterator[tuple[int, str, str]]:
    """(line's number, long name, value or "") of every option, as sbatch reads them."""
    for number, line in enumerate(header, 1):
        if not line.startswith("#SBATCH"):
            continue
        try:
            words = shlex.split(line.removeprefix("#SBATCH"), comments=True)
        except ValueError as error:
            raise UsageError(f"{name}:{number}: {error}", hint="close every quote") from None
        while words:
            word = words.pop(0)
            if re.fullmatch(r"-[A-Za-z].*", word) and word[1] in _SHORT:
                option, value = _SHORT[word[1]], word[2:]
            elif word.startswith("--"):
                option, _, value = word[2:].partition("=")
            else:
                raise UsageError(f"{name}:{number}: {one_line(word, 60)!r} is no option that is known here")
            if not value and option not in _FLAGS and words and not words[0].startswith("-"):
                value = words.pop(0)
            yield number, option, value


class _Reader:
    """Takes option after option; each either has its place, or is refused where it stands."""

    def __init__(self, name: str, nodes: int | None) -> None:
        self._name, self._asked_nodes = name, nodes
        self._nodes_now = nodes or 1
        self._fields: dict[str, Any] = {}
        self._passed: dict[str, str] = {}
        self._notes: list[str] = []
        self._last: list[Callable[[], None]] = []  # what depends on the number of nodes
        self._takes: dict[str, Callable[[str, str], None]] = {
            "cpus-per-task": self._cpus,
            "exclusive": self._exclusive,
            "gpus": self._gpus,
            "gpus-per-node": self._gpus_per_node,
            "gpus-per-task": self._gpus_per_node,
            "gres": self._gres,
            "job-name": self._job_name,
            "mem": self._mem,
            "nodes": self._nodes,
            "ntasks": self._ntasks,
            "ntasks-per-node": self._ntasks_per_node,
            "requeue": lambda where, value: None,
            "time": self._time,
        }

    def take(self, number: int, option: str, value: str) -> None:
        """One option. Raises UsageError."""
        where = f"{self._name}:{number}: --{one_line(option, 40)}"
        where += f"={one_line(value, 60)}" if value else ""
        if option in REFUSED:
            raise UsageError(f"{where} does not go with a training", hint=REFUSED[option])
        if option in OURS:
            self._notes.append(f"{where} is left out: {OURS[option]}")
        elif option in ("partition", "account", "qos", "constraint"):
            self._fields[option] = self._checked(where, option, value)
        elif option in PASSED:
            self._passed[option] = "" if option in _FLAGS else self._checked(where, option, value)
        elif option in self._takes:
            self._takes[option](where, value)
        else:
            raise UsageError(
                f"{where} is not known here",
                hint=f"taken along are, among others: {', '.join(sorted(PASSED))}",
            )

    def finish(self) -> Foreign:
        """What was taken. Raises UsageError for what contradicts the number of nodes."""
        for check in self._last:
            check()
        return Foreign(Options(**self._fields, sbatch=self._passed), self._notes)

    def _job_name(self, where: str, value: str) -> None:
        self._fields["label"] = self._checked(where, "label", value)

    def _time(self, where: str, value: str) -> None:
        # sbatch reads a bare number as minutes, the queries print one as seconds
        minutes = int(value) if value.isdecimal() else durations.slurm_minutes(value)
        if not minutes:
            raise UsageError(f"{where} is no length of time", hint="HH:MM:SS or D-HH:MM:SS")
        self._fields["minutes"] = minutes

    def _nodes(self, where: str, value: str) -> None:
        low, _, high = value.partition("-")
        if not low.isdecimal() or (high and high != low) or int(low) < 1:
            raise UsageError(f"{where} is no fixed number of nodes", hint="--nodes=1")
        if int(low) > 1 and self._asked_nodes is None:
            raise UsageError(
                f"{where}: one training over several nodes is a wish of its own",
                hint=f"say --nodes {low} on the command line too",
            )
        self._fields["nodes"] = int(low)

    def _ntasks(self, where: str, value: str) -> None:
        def check() -> None:
            if value != str(self._nodes_now):
                raise UsageError(
                    f"{where} contradicts one task on each of {self._nodes_now} nodes",
                    hint="take the line out; hpcpools starts one process per GPU by itself",
                )

        self._last.append(check)

    def _ntasks_per_node(self, where: str, value: str) -> None:
        if value != "1":
            raise UsageError(
                f"{where} contradicts one task on each node",
                hint="take the line out; hpcpools starts one process per GPU by itself",
            )

    def _mem(self, where: str, value: str) -> None:
        if not re.fullmatch(r"0[KMGT]?", value):
            raise UsageError(f"{where}: an exclusive node gives all its memory", hint="--mem=0, or no line")

    def _exclusive(self, where: str, value: str) -> None:
        if value:
            raise UsageError(f"{where} shares the node", hint="--exclusive")

    def _cpus(self, where: str, value: str) -> None:
        self._notes.append(f"{where} is left out: all CPUs of the node are given")

    def _gpus_per_node(self, where: str, value: str) -> None:
        self._fields["gpus"] = self._counted(where, value)

    def _counted(self, where: str, value: str) -> int:
        """The number in ``[TYPE:]NUMBER``; a type goes along. Raises UsageError."""
        kind, _, count = value.rpartition(":")
        if not count.isdecimal() or not _GPU_TYPE.fullmatch(kind):
            raise UsageError(f"{where} is no number of GPUs of one type", hint="--gpus-per-node=4, or a100:4")
        if kind:
            self._fields["gpu_type"] = kind
        return int(count)

    def _gres(self, where: str, value: str) -> None:
        kind, _, rest = value.partition(":")
        if kind != "gpu":
            raise UsageError(f"{where} is no number of GPUs", hint="--gpus-per-node=4")
        one = not rest.rpartition(":")[2].isdecimal()  # Slurm reads gpu and gpu:a100 as one of them
        self._gpus_per_node(where, f"{rest}:1".removeprefix(":") if one else rest)

    def _gpus(self, where: str, value: str) -> None:
        def check() -> None:
            each, rest = divmod(self._counted(where, value), self._nodes_now)
            if rest:
                raise UsageError(
                    f"{where} does not divide among {self._nodes_now} nodes", hint="use --gpus-per-node"
                )
            self._fields["gpus"] = each

        self._last.append(check)

    @staticmethod
    def _checked(where: str, option: str, value: str) -> str:
        try:
            return option_value(option, value)
        except UsageError as error:
            raise UsageError(f"{where}: {error.message}", hint=error.hint) from None


def _setup(name: str, lines: list[str], at: int) -> list[str]:
    """The shell lines before the last command. Raises UsageError."""
    commands = [number for number in range(at, len(lines)) if lines[number].split("#")[0].strip()]
    if not commands:
        return []
    last = commands[-1]
    while last > at and lines[last - 1].endswith("\\"):
        last -= 1
    for number, line in enumerate(lines[at:last], at + 1):
        if not _HARMLESS.fullmatch(line):
            raise UsageError(f"{name}:{number}: control characters, or more than 4096", hint="take them out")
        if found := _WORK.match(line.strip()):
            raise UsageError(
                f"{name}:{number}: {found.group(1)} would run before the training, or instead of it",
                hint="only the last command makes room for the training; what stands before it is set-up",
            )
    done = subprocess.run(
        ["bash", "-n"], input="\n".join([*lines[at:last], ""]), text=True, capture_output=True, check=False
    )
    if done.returncode:
        raise UsageError(
            f"{name}: what stands before the last command is not whole: {one_line(done.stderr.strip())}",
            hint="the last command must stand by itself, on the script's last line",
        )
    return lines[at:last]
