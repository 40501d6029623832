"""The Python face: ``hpcpools.train(...)``, ``sweep(...)`` and ``enqueue(...)``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from hpcpools import catalog, durations
from hpcpools import config as configuration
from hpcpools.config import Config
from hpcpools.errors import UsageError
from hpcpools.runs.sweeps import Definition
from hpcpools.services import autostart
from hpcpools.short import bulk
from hpcpools.short.enqueue import Client, ShortJob, check_arguments
from hpcpools.short.options import DependsOn, JobOptions
from hpcpools.training import engine, inflight, plan, submit
from hpcpools.training import snapshot as code_snapshot
from hpcpools.training import sweep as sweeping
from hpcpools.training.handle import RunHandle
from hpcpools.training.plan import Options
from hpcpools.training.sweephandle import SweepHandle


def train(
    target: str | Callable[..., Any],
    arguments: Mapping[str, Any] | None = None,
    /,
    *,
    gpus: int | None = None,
    nodes: int | None = None,
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
        gpus, nodes, time, partition: overrule the declaration; ``time`` in seconds or as ``"12h"``.
        label: a name for people.
        on: ``slurm``, ``local`` or ``auto``.
        snapshot: False runs the live files; None does as the config says.

    Raises UsageError, RefusedError, SlurmRefusedError, SlurmUnavailableError, SubmissionUnknownError.
    """
    settings = config or configuration.load()
    given = _merged(arguments or {}, named)
    options = _options(gpus, nodes, time, partition, label)
    listed = catalog.load(settings)
    where = engine.choose(settings, on)
    request = plan.plan_callable(settings, listed, _name(target), given, options=options, engine=where)
    if where == "slurm":
        inflight.check(settings)
    run = submit.submit(settings, code_snapshot.freeze(settings, [request], snapshot)[0])
    if where == "local":
        autostart.for_training(settings)
    return RunHandle(settings, run)


def sweep(
    target: str | Callable[..., Any],
    grid: Mapping[str, Iterable[Any]],
    /,
    *,
    max_parallel: int = 0,
    gpus: int | None = None,
    nodes: int | None = None,
    time: str | float | None = None,
    partition: str = "",
    label: str = "",
    on: engine.On = "auto",
    snapshot: bool | None = None,
    config: Config | None = None,
    **named: Any,
) -> SweepHandle:
    """Submit a declared training once per point of ``grid``, as one job array; returns with its handle.

    Args:
        target: ``"package.module:function"`` or the declared function itself.
        grid: the values of each argument that differs; ``{"lr": [1e-4, 1e-3], "seed": range(5)}`` are ten
            runs, the last name fastest.
        max_parallel: at most so many run at once; 0: as many as Slurm lets.
        gpus, nodes, time, partition, label, on, snapshot: of each run, as for :func:`train`.
        named: the arguments that are the same for all; those named like an option here go into ``grid``,
            as a list of one value.

    Raises what :func:`train` raises; nothing is submitted if one of the points is wrong.
    """
    settings = config or configuration.load()
    if texts := [name for name, values in grid.items() if isinstance(values, str)]:
        raise UsageError(f"{texts[0]} has one text, not several values", hint="give a list")
    axes = {name: list(values) for name, values in grid.items()}
    definition = Definition(_name(target), named, axes, max_parallel=max_parallel)
    options = _options(gpus, nodes, time, partition, label)
    listed, where = catalog.load(settings), engine.choose(settings, on)
    planned = sweeping.plan_sweep(settings, listed, definition, options, where, snapshot=snapshot)
    place = sweeping.submit_sweep(settings, planned)
    if where == "local":
        autostart.for_training(settings)
    return SweepHandle(settings, place)


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
    retry_intervals: Sequence[str | float] | None = None,
    result_ttl: str | float | None = None,
    failure_ttl: str | float | None = None,
    job_id: str | None = None,
    unique: bool = False,
    depends_on: DependsOn = (),
    allow_failure: bool = False,
    delay: str | float | None = None,
    at: str | datetime | None = None,
    meta: Mapping[str, Any] | None = None,
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
        retry_intervals: other waits before the next tries, as ``[0, 10, "5m"]``; the last one repeats.
        result_ttl, failure_ttl: how long its result, or its failure, is kept.
        job_id: your own id, to make a repeated call harmless: an equal job is not enqueued twice.
        unique: refuse if any job of that ``job_id`` is still known, be it an equal one.
        depends_on: jobs, or their ids, that must have succeeded first; it waits without a worker.
        allow_failure: a dependency that failed is good enough, too.
        delay, at: not before so long from now, or not before that time (datetime, or ISO 8601; local time
            unless it has an offset). Needs the scheduler service.
        meta: facts for people and tools, plain JSON; not signed, so nothing may rely on them.
        named: the task's arguments, plain JSON values.

    Raises RefusedError, UsageError, NotFoundError, ConfigError, PermissionsError, RedisUnavailableError.
    """
    settings = config or configuration.load()
    given = _merged(arguments or {}, named)
    entry = _short(settings, task)
    check_arguments(entry, given)
    options = JobOptions(
        queue=queue,
        at_front=at_front,
        timeout=timeout,
        retries=retries,
        retry_intervals=retry_intervals,
        result_ttl=result_ttl,
        failure_ttl=failure_ttl,
        job_id=job_id,
        unique=unique,
        depends_on=depends_on,
        allow_failure=allow_failure,
        delay=delay,
        at=at,
        meta=meta,
    )
    options.check(settings)  # all checks before anything is started for it
    autostart.for_short(settings)
    return Client.of(settings).send(entry, given, options)


def enqueue_many(
    task: str | Callable[..., Any],
    many: Iterable[Mapping[str, Any]],
    /,
    *,
    config: Config | None = None,
    **options: Any,
) -> list[ShortJob]:
    """Give the workers one job for each of ``many`` arguments, in one round trip: all of them or none.

    ``enqueue_many("pkg.mod:evaluate", [{"ckpt": path} for path in paths])``. Every job is checked before
    anything is written; they run in the order given. ``options`` hold for all of them and are those of
    :func:`enqueue`, except what concerns a single job: id, time and dependencies.

    Raises RefusedError, UsageError, ConfigError, PermissionsError, RedisUnavailableError.
    """
    settings = config or configuration.load()
    entry = _short(settings, task)
    if unknown := sorted(set(options) - set(bulk.OPTIONS)):
        raise UsageError(
            f"enqueue_many takes no {unknown[0]!r}",
            hint=f"allowed: {', '.join(bulk.OPTIONS)}; call enqueue() for each job that needs more",
        )
    given = [dict(arguments) for arguments in many]
    for arguments in given:
        check_arguments(entry, arguments)
    said = JobOptions(**options)
    said.check(settings)
    autostart.for_short(settings)
    return Client.of(settings).send_many(entry, given, said)


def _short(config: Config, task: str | Callable[..., Any]) -> catalog.Entry:
    """The declared short task; the modules are looked through once per configuration."""
    client = Client.known(config)
    return (client.catalog if client else catalog.load(config)).short(_name(task))


def _options(
    gpus: int | None, nodes: int | None, time: str | float | None, partition: str, label: str
) -> Options:
    minutes = None if time is None else durations.minutes(time)
    return Options(gpus=gpus, nodes=nodes, minutes=minutes, partition=partition, label=label)


def _merged(arguments: Mapping[str, Any], named: Mapping[str, Any]) -> dict[str, Any]:
    if twice := set(arguments) & set(named):
        raise UsageError(f"argument {sorted(twice)[0]!r} is given twice", hint="give each argument once")
    return {**arguments, **named}


def _name(task: str | Callable[..., Any]) -> str:
    return task if isinstance(task, str) else f"{task.__module__}:{task.__qualname__}"
