"""What a user declares in their own modules: ``@task`` for short work, ``@training`` for long.

Owns the two decorators and the frozen declarations that they leave on the function. Refuses nothing at
import time but wrong values; which pool serves a task is decided in ``catalog``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, overload

from hpcpools import durations
from hpcpools.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])
MARK = "__hpcpools__"


@dataclass(frozen=True)
class TaskDeclaration:
    """A short task. ``timeout`` and ``result_ttl`` in seconds; None means the config's default."""

    queue: str = "default"
    timeout: float | None = None
    retries: int | None = None
    result_ttl: float | None = None


@dataclass(frozen=True)
class TrainingDeclaration:
    """A training. ``gpus`` per node (None: all of the node's), ``time`` in whole minutes."""

    gpus: int | None = None
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
) -> Callable[[F], F]: ...
def task(
    function: Any = None,
    /,
    *,
    queue: str = "default",
    timeout: str | float | None = None,
    retries: int | None = None,
    result_ttl: str | float | None = None,
) -> Any:
    """Declare a function a short task; it stays an ordinary function.

    Args:
        queue: ``default``, ``evaluation``, ``preprocessing``, ``maintenance`` or one of the config.
        timeout: the longest it may run, in seconds or as ``"5m"``; it is killed after that.
        retries: how often it is tried again after a failure; only for tasks that may run twice.
        result_ttl: how long the result is kept.

    Raises UsageError for a wrong value.
    """
    if retries is not None and (not isinstance(retries, int) or not 0 <= retries <= 100):
        raise UsageError(f"retries={retries!r} is wrong", hint="a whole number from 0 to 100")
    declaration = TaskDeclaration(
        queue=queue,
        timeout=None if timeout is None else durations.seconds(timeout),
        retries=retries,
        result_ttl=None if result_ttl is None else durations.seconds(result_ttl),
    )
    return _mark(function, declaration)


@overload
def training(function: F, /) -> F: ...
@overload
def training(
    *,
    gpus: int | None = ...,
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
    time: str | float | None = None,
    partition: str = "",
    cpus: int | None = None,
    account: str = "",
    qos: str = "",
    constraint: str = "",
    launcher: Literal["", "auto", "elastic", "single"] = "",
) -> Any:
    """Declare a function a training: one exclusive node, through Slurm, or the local slot without it.

    A parameter named ``run`` receives the :class:`hpcpools.Run` context.

    Args:
        gpus: GPUs per node; None asks for all that the partition's nodes have.
        time: wall time, in seconds or as ``"12h"`` or ``"HH:MM:SS"``, rounded up to whole minutes.
        partition, account, qos, constraint: as for sbatch(1).
        cpus: CPUs of the local slot's process; on Slurm the whole node is given anyway.
        launcher: ``elastic`` starts one process per GPU through torch, ``single`` one process.

    Raises UsageError for a wrong value.
    """
    if gpus is not None and (not isinstance(gpus, int) or not 0 <= gpus <= 1024):
        raise UsageError(f"gpus={gpus!r} is wrong", hint="a whole number from 0 to 1024, or None for all")
    if launcher not in ("", "auto", "elastic", "single"):
        raise UsageError(f"launcher={launcher!r} is wrong", hint="auto, elastic or single")
    declaration = TrainingDeclaration(
        gpus=gpus,
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
