"""The Python face: ``hpcpools.train(...)`` and ``hpcpools.enqueue(...)``, which the command line uses too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hpcpools import catalog, durations, textsafe
from hpcpools import config as configuration
from hpcpools.config import Config
from hpcpools.errors import UsageError
from hpcpools.services import autostart
from hpcpools.short.enqueue import Client, ShortJob
from hpcpools.training import engine, plan, submit
from hpcpools.training import snapshot as code_snapshot
from hpcpools.training.handle import RunHandle
from hpcpools.training.plan import Options


def train(
    target: str | Callable[..., Any],
    arguments: Mapping[str, Any] | None = None,
    /,
    *,
    gpus: int | None = None,
    time: str | float | None = None,
    partition: str = "",
    label: str = "",
    on: engine.On = "auto",
    snapshot: bool | None = None,
    config: Config | None = None,
    **named: Any,
) -> RunHandle:
    """Submit a declared training; returns at once with its handle.

    Args:
        target: ``"package.module:function"`` or the declared function itself.
        arguments: the function's keyword arguments, plain JSON values; those whose names this call does
            not use itself may be given directly, as in ``train(fit, lr=1e-3)``.
        gpus, time, partition: overrule the declaration; ``time`` in seconds or as ``"12h"``.
        label: a name for people.
        on: ``slurm``, ``local`` or ``auto``.
        snapshot: False runs the live files; None does as the config says.

    Raises UsageError, RefusedError, SlurmRefusedError, SlurmUnavailableError, SubmissionUnknownError.
    """
    settings = config or configuration.load()
    given = _merged(arguments or {}, named)
    minutes = None if time is None else durations.minutes(time)
    options = Options(gpus=gpus, minutes=minutes, partition=partition, label=label)
    listed = catalog.load(settings)
    where = engine.choose(settings, on)
    request = plan.plan_callable(settings, listed, _name(target), given, options=options, engine=where)
    run = submit.submit(settings, code_snapshot.freeze(settings, [request], snapshot)[0])
    if where == "local":
        autostart.for_training(settings)
    return RunHandle(settings, run)


def enqueue(
    task: str | Callable[..., Any],
    arguments: Mapping[str, Any] | None = None,
    /,
    *,
    config: Config | None = None,
    queue: str | None = None,
    at_front: bool = False,
    timeout: str | float | None = None,
    retries: int | None = None,
    job_id: str | None = None,
    **named: Any,
) -> ShortJob:
    """Give a declared short task to the workers; ``enqueue("pkg.mod:evaluate", ckpt="a.pt").result()``.

    Args:
        task: ``package.module:function``, or the function itself.
        arguments: the task's arguments; needed only for those named like an option here.
        config: the configuration; found as the command line finds it if None.
        queue: instead of the one it is routed to.
        at_front: before the jobs that wait already.
        timeout: the longest it may run, seconds or ``"5m"``, rounded up to whole seconds.
        retries: how often it is tried again: at once, then after 10 s, 60 s and every 5 min. The delayed
            tries need the scheduler service.
        job_id: your own id, to make a repeated call harmless: an equal job is not enqueued twice.
        named: the task's arguments, plain JSON values.

    Raises RefusedError, UsageError, ConfigError, PermissionsError, RedisUnavailableError.
    """
    settings = config or configuration.load()
    given = _merged(arguments or {}, named)
    entry = catalog.load(settings).short(_name(task))
    catalog.check_arguments(entry, given)
    textsafe.json_arguments(given)  # before anything is started for it
    autostart.for_short(settings)
    return Client.of(settings).enqueue(
        entry.name,
        given,
        queue=queue,
        at_front=at_front,
        timeout=timeout,
        retries=retries,
        job_id=job_id,
    )


def _merged(arguments: Mapping[str, Any], named: Mapping[str, Any]) -> dict[str, Any]:
    if twice := set(arguments) & set(named):
        raise UsageError(f"argument {sorted(twice)[0]!r} is given twice", hint="give each argument once")
    return {**arguments, **named}


def _name(task: str | Callable[..., Any]) -> str:
    return task if isinstance(task, str) else f"{task.__module__}:{task.__qualname__}"
