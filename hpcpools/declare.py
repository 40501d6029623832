"""What a user declares in their own modules: ``@task`` for short work, ``@training`` for long.

Owns the two decorators and the frozen declarations that they leave on the function. Refuses nothing at
import time but wrong values; which pool serves a task is decided in ``catalog``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, overload

from msgspec import Struct

from hpcpools import durations
from hpcpools.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])
MARK = "__hpcpools__"
MAX_RETRIES = 100
_MEBI = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024 * 1024}
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)([KMGT]?)B?")


class TaskDeclaration(Struct, frozen=True):
    """A short task. Lengths of time in seconds, ``mem`` in MiB; None means the config's default."""

    queue: str = "default"
    timeout: float | None = None
    retries: int | None = None
    result_ttl: float | None = None
    retry_intervals: tuple[int, ...] | None = None
    gpus: int = 0
    cpus: int | None = None
    mem: int | None = None
    slurm: bool = False

    @property
    def needs(self) -> str:
        """What it asks for that only a compute node has, as ``gpus=1, mem=8192M``; empty if nothing."""
        asked = (f"gpus={self.gpus}" * bool(self.gpus), f"mem={self.mem}M" if self.mem else "")
        return ", ".join(text for text in (*asked, "slurm" * self.slurm) if text)


class TrainingDeclaration(Struct, frozen=True):
    """A training. ``gpus`` per node (None: all of the node's), ``time`` in whole minutes."""

    gpus: int | None = None
    nodes: int | None = None
    time: int | None = None
    partition: str = ""
    cpus: int | None = None
    account: str = ""
    qos: str = ""
    constraint: str = ""
    launcher: Literal["", "auto", "elastic", "single"] = ""


Declaration = TaskDeclaration | TrainingDeclaration


@overload
def task(function: F, /) -> F: ...
@overload
def task(
    *,
    queue: str = ...,
    timeout: str | float | None = ...,
    retries: int | None = ...,
    result_ttl: str | float | None = ...,
    retry_intervals: Sequence[str | float] | None = ...,
    gpus: int = ...,
    cpus: int | None = ...,
    mem: str | int | None = ...,
    slurm: bool = ...,
) -> Callable[[F], F]: ...
def task(
    function: Any = None,
    /,
    *,
    queue: str = "default",
    timeout: str | float | None = None,
    retries: int | None = None,
    result_ttl: str | float | None = None,
    retry_intervals: Sequence[str | float] | None = None,
    gpus: int = 0,
    cpus: int | None = None,
    mem: str | int | None = None,
    slurm: bool = False,
) -> Any:
    """Declare a function a short task; it stays an ordinary function.

    Args:
        queue: ``default``, ``evaluation``, ``preprocessing``, ``maintenance`` or one of the config.
        timeout: the longest it may run, in seconds or as ``"5m"``; it is killed after that.
        retries: how often it is tried again after a failure; only for tasks that may run twice.
        result_ttl: how long the result is kept.
        retry_intervals: how long to wait before each next try, as ``[0, 10, "5m"]``; the last one repeats.
        gpus: GPUs it needs. With this, ``mem`` or ``slurm=True`` the Slurm lane carries it (docs/lane.md).
        cpus: CPUs it is given by the lane.
        mem: memory it needs, as ``"8G"`` or in MiB.
        slurm: it belongs on a compute node for another reason.

    Raises UsageError for a wrong value.
    """
    declaration = TaskDeclaration(
        queue=queue,
        timeout=None if timeout is None else durations.seconds(timeout),
        retries=retry_count(retries),
        result_ttl=None if result_ttl is None else durations.seconds(result_ttl),
        retry_intervals=intervals(retry_intervals),
        gpus=_whole("gpus", gpus, 0, 1024) or 0,
        cpus=_whole("cpus", cpus, 1, 4096),
        mem=None if mem is None else mebibytes(mem),
        slurm=bool(slurm),
    )
    return _mark(function, declaration)


@overload
def training(function: F, /) -> F: ...
@overload
def training(
    *,
    gpus: int | None = ...,
    nodes: int | None = ...,
    time: str | float | None = ...,
    partition: str = ...,
    cpus: int | None = ...,
    account: str = ...,
    qos: str = ...,
    constraint: str = ...,
    launcher: Literal["", "auto", "elastic", "single"] = ...,
) -> Callable[[F], F]: ...
def training(
    function: Any = None,
    /,
    *,
    gpus: int | None = None,
    nodes: int | None = None,
    time: str | float | None = None,
    partition: str = "",
    cpus: int | None = None,
    account: str = "",
    qos: str = "",
    constraint: str = "",
    launcher: Literal["", "auto", "elastic", "single"] = "",
) -> Any:
    """Declare a function a training: exclusive nodes, through Slurm, or the local slot without it.

    A parameter named ``run`` receives the :class:`hpcpools.Run` context.

    Args:
        gpus: GPUs per node; None asks for all that the partition's nodes have.
        nodes: how many nodes, with one group of processes over all of them; None means one.
        time: wall time, in seconds or as ``"12h"`` or ``"HH:MM:SS"``, rounded up to whole minutes.
        partition, account, qos, constraint: as for sbatch(1).
        cpus: CPUs of the local slot's process; on Slurm the whole node is given anyway.
        launcher: ``elastic`` starts one process per GPU through torch, ``single`` one process.

    Raises UsageError for a wrong value.
    """
    if gpus is not None and (not isinstance(gpus, int) or not 0 <= gpus <= 1024):
        raise UsageError(f"gpus={gpus!r} is wrong", hint="a whole number from 0 to 1024, or None for all")
    if nodes is not None and (not isinstance(nodes, int) or not 1 <= nodes <= 10_000):
        raise UsageError(f"nodes={nodes!r} is wrong", hint="a whole number, 1 or more")
    if launcher not in ("", "auto", "elastic", "single"):
        raise UsageError(f"launcher={launcher!r} is wrong", hint="auto, elastic or single")
    declaration = TrainingDeclaration(
        gpus=gpus,
        nodes=nodes,
        time=None if time is None else durations.minutes(time),
        partition=partition,
        cpus=cpus,
        account=account,
        qos=qos,
        constraint=constraint,
        launcher=launcher,
    )
    return _mark(function, declaration)


def _mark(function: Any, declaration: Declaration) -> Any:
    def mark(function: F) -> F:
        if not callable(function) or "<locals>" in getattr(function, "__qualname__", "<locals>"):
            raise UsageError(
                f"{function!r} cannot be declared", hint="declare functions at the top level of a module"
            )
        setattr(function, MARK, declaration)
        return function

    return mark if function is None else mark(function)


def retry_count(retries: int | None) -> int | None:
    """``retries`` if it is a number of retries, or None. Raises UsageError."""
    whole = retries is None or (isinstance(retries, int) and not isinstance(retries, bool))
    if not whole or not 0 <= (retries or 0) <= MAX_RETRIES:
        raise UsageError(f"retries={retries!r} is wrong", hint=f"a whole number from 0 to {MAX_RETRIES}")
    return retries


def intervals(values: Sequence[str | float] | None) -> tuple[int, ...] | None:
    """Whole seconds before each next try, rounded up; 0 is at once. Raises UsageError."""
    if values is None:
        return None
    if isinstance(values, str) or not isinstance(values, Sequence) or not 0 < len(values) <= MAX_RETRIES:
        raise UsageError(
            f"retry_intervals={values!r} is wrong", hint='one or more lengths of time, as [0, 10, "5m"]'
        )
    return tuple(0 if value in (0, "0") else math.ceil(durations.seconds(value)) for value in values)


def mebibytes(value: str | int) -> int:
    """Memory in MiB, of ``"8G"``, ``"512M"``, ``"1.5T"`` or a number of MiB. Raises UsageError."""
    found = _MEMORY.fullmatch(str(value).strip().upper())
    size = math.ceil(float(found.group(1)) * _MEBI[found.group(2) or "M"]) if found else 0
    if isinstance(value, bool) or not 0 < size <= _MEBI["T"] * 1024:
        raise UsageError(f"mem={value!r} is no amount of memory", hint="as 8G, 512M, or a number of MiB")
    return size


def _whole(name: str, value: int | None, least: int, most: int) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise UsageError(f"{name}={value!r} is wrong", hint=f"a whole number from {least} to {most}")
    return value
