"""What sbatch is asked for: its words and the ``#SBATCH`` lines of its script, as a :class:`Spec`.

Refuses every option that the fake would have to ignore although it changes what happens.
"""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hpcpools.errors import SlurmRefusedError, UsageError
from hpcpools.slurm.partition import expand
from hpcpools.testing import dependencies
from hpcpools.testing.world import Spec

# Long name → short letter; those of _FLAGS stand alone, of _EITHER may.
_VALUED = {
    "account": "A", "array": "a", "begin": "b", "chdir": "D", "comment": "", "constraint": "C",
    "cpus-per-task": "c", "dependency": "d", "error": "e", "exclude": "x", "export": "", "gpus-per-node": "",
    "gres": "", "input": "i", "job-name": "J", "mail-type": "", "mail-user": "", "mem": "", "nodelist": "w",
    "nodes": "N", "ntasks": "n", "ntasks-per-node": "", "open-mode": "", "output": "o", "partition": "p",
    "qos": "q", "signal": "", "time": "t", "wckey": "", "wrap": "",
}  # fmt: skip
_FLAGS = {
    "hold": "H",
    "no-requeue": "",
    "parsable": "",
    "quiet": "Q",
    "requeue": "",
    "test-only": "",
    "version": "V",
}
_EITHER = {"exclusive": ""}
_MANUAL = "sbatch(1)"
_LONG = {**_VALUED, **_FLAGS, **_EITHER}
_SHORT = {letter: name for name, letter in _LONG.items() if letter}
_MEMORY = {"": 1, "M": 1, "MB": 1, "G": 1024, "GB": 1024, "T": 1024**2, "K": 1 / 1024}
_RELATIVE = re.compile(r"now(?:\+(\d+)(seconds?|minutes?|hours?|days?|weeks?)?)?")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class UnknownOptionError(UsageError):
    """An option that Slurm may know and the fake does not."""


@dataclass
class Request:
    """``options``: long name → value ("" for a flag). ``script``: its path, None for ``--wrap`` or stdin."""

    options: dict[str, str] = field(default_factory=dict)
    script: Path | None = None
    arguments: list[str] = field(default_factory=list)


def parse_words(words: Sequence[str]) -> Request:
    """sbatch's own words. Raises UnknownOptionError."""
    found = Request()
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        name, value = _take(rest)
        found.options[name] = value
    if rest:
        found.script, found.arguments = Path(rest[0]), rest[1:]
    return found


def parse_script(text: str) -> dict[str, str]:
    """The ``#SBATCH`` lines before the first command. Raises UnknownOptionError."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            break
        if line.startswith("#SBATCH"):
            rest = shlex.split(line.removeprefix("#SBATCH"), comments=True)
            while rest:
                name, value = _take(rest)
                found[name] = value
    return found


def _take(rest: list[str]) -> tuple[str, str]:
    word = rest.pop(0)
    if word.startswith("--"):
        name, equals, value = word[2:].partition("=")
    else:
        name, equals, value = _SHORT.get(word[1:2], ""), word[2:], word[2:].removeprefix("=")
    if name not in _LONG:
        raise UnknownOptionError(f"unrecognized option '{word}'", hint="the fake Slurm does not know it")
    if name in _VALUED and not equals:
        if not rest:
            raise UsageError(f"option '{word}' requires an argument", hint=_MANUAL)
        value = rest.pop(0)
    return name, value


def spec(options: Mapping[str, str], title: str, folder: str, default_partition: str) -> Spec:
    """The job that these options ask for. Raises UsageError for what sbatch itself refuses,
    SlurmRefusedError for what slurmctld does."""
    nodes = _number(options, "nodes", 1)
    per_node = _number(options, "ntasks-per-node", 0)
    tasks = _number(options, "ntasks", nodes * max(per_node, 1))
    array = "array" in options
    number, lead, batch = _signal(options.get("signal", ""))
    output = options.get("output") or ("slurm-%A_%a.out" if array else "slurm-%j.out")
    if options.get("constraint"):  # the fake's nodes have none
        raise SlurmRefusedError("Invalid feature specification")
    if not dependencies.well_formed(options.get("dependency", "")):
        raise SlurmRefusedError("Job dependency problem")
    return Spec(
        name=options.get("job-name", title),
        partition=options.get("partition", default_partition),
        folder=options.get("chdir", folder),
        output=output,
        error=options.get("error") or "",
        comment=options.get("comment", ""),
        nodes=nodes,
        tasks=tasks,
        tasks_per_node=per_node,
        cpus_per_task=_number(options, "cpus-per-task", 1),
        gpus=_gpus(options.get("gpus-per-node") or options.get("gres", "")),
        memory=_memory(options.get("mem", "0")),
        exclusive="exclusive" in options,
        minutes=minutes(options["time"]) if "time" in options else None,
        signal=number,
        signal_lead=lead,
        signal_batch=batch,
        requeue="no-requeue" not in options,
        append=options.get("open-mode", "") == "append",
        dependency=options.get("dependency", ""),
        nodelist=list(expand(options.get("nodelist", ""))),
        exclude=list(expand(options.get("exclude", ""))),
        account=options.get("account", ""),
        qos=options.get("qos", "normal"),
    )


def indices(text: str) -> tuple[list[int], int]:
    """``0-5,7%2`` as indices and how many may run at once (0 for all)."""
    if not text:
        return [], 0
    plain, _, parallel = text.partition("%")
    found: set[int] = set()
    for one in plain.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", one)
        if match is None:
            raise SlurmRefusedError("Invalid job array specification")
        first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        found.update(range(first, last + 1, step or 1))
    return sorted(found), int(parallel) if parallel.isdecimal() else 0


def begin(text: str, now: float) -> float:
    """``now+1hour``, epoch seconds as ``uts`` or nothing. Raises UsageError."""
    if not text:
        return 0.0
    found = _RELATIVE.fullmatch(text)
    if found is None:
        raise UsageError("Invalid time specification", hint=_MANUAL)
    return now + int(found[1] or 0) * _SECONDS[(found[2] or "s")[0]]


def minutes(text: str) -> int | None:
    """``--time``: minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S; rounded up; None for UNLIMITED."""
    if text.upper() in ("UNLIMITED", "INFINITE", "-1"):
        return None
    days, dash, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in (*parts, *([days] if dash else []))) or len(parts) > 3:
        raise UsageError("Invalid --time specification", hint=_MANUAL)
    numbers = [int(part) for part in parts]
    if dash:
        hours, mins, secs = (*numbers, 0, 0)[:3]
    elif len(numbers) == 3:
        hours, mins, secs = numbers
    else:
        hours, mins, secs = 0, numbers[0], numbers[1] if len(numbers) == 2 else 0
    return (int(days or 0) * 24 + hours) * 60 + mins + (secs > 0)


def _number(options: Mapping[str, str], name: str, otherwise: int) -> int:
    text = options.get(name, "").partition("-")[0]
    if name not in options:
        return otherwise
    if not text.isdecimal() or not int(text):
        raise UsageError(f'Invalid numeric value "{options[name]}" for --{name}', hint=_MANUAL)
    return int(text)


def _gpus(text: str) -> int:
    """``4``, ``gpu:4``, ``gpu:a100:4``, ``gpu``."""
    if not text:
        return 0
    last = text.removeprefix("gres:").rpartition(":")[2]
    if "," in text or not (last.isdecimal() or text == "gpu"):
        raise SlurmRefusedError("Invalid generic resource (gres) specification")
    return int(last) if last.isdecimal() else 1


def _memory(text: str) -> int:
    found = re.fullmatch(r"(\d+)([A-Za-z]*)", text)
    if found is None or found[2].upper() not in _MEMORY:
        raise UsageError("Invalid --mem specification", hint=_MANUAL)
    return int(int(found[1]) * _MEMORY[found[2].upper()])


def _signal(text: str) -> tuple[int, int, bool]:
    """``[B:]NAME[@seconds]`` as number, lead and whether the script alone gets it."""
    if not text:
        return 0, 60, False
    who, _, rest = text.rpartition(":")
    name, _, lead = rest.partition("@")
    number = int(name) if name.isdecimal() else getattr(signal, f"SIG{name.upper().removeprefix('SIG')}", 0)
    if not number or (lead and not lead.isdecimal()):
        raise UsageError("Invalid --signal specification", hint=_MANUAL)
    return int(number), int(lead or 60), "B" in who
