"""The allow-list: every declared callable of the configured modules, and the queue that serves it.

Owns importing the user's modules and the routing table. Refuses whatever is not declared and listed.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct

from hpcpools.config import Config
from hpcpools.declare import MARK, Declaration, TaskDeclaration, TrainingDeclaration
from hpcpools.errors import ConfigError, RefusedError, UsageError
from hpcpools.schema import LANE_QUEUE, TRAINING_QUEUE
from hpcpools.textsafe import one_line

BUILT_IN = "hpcpools.maintenance"


class Entry(Struct, frozen=True):
    """One callable: its name ``package.module:function``, where it goes, and why."""

    name: str
    queue: str
    function: Callable[..., Any]
    declaration: Declaration
    routed_by: str  # "declaration" or "config"

    @property
    def is_training(self) -> bool:
        """True if the training pool serves it."""
        return self.queue == TRAINING_QUEUE


class Catalog:
    """An immutable mapping of names to entries."""

    def __init__(self, entries: dict[str, Entry]) -> None:
        self._entries = entries

    def __iter__(self) -> Iterator[Entry]:
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))

    def get(self, name: str) -> Entry:
        """The entry called ``name``. Raises RefusedError if it is not declared and listed."""
        try:
            return self._entries[name]
        except KeyError:
            close = _closest(name, list(self._entries))
            hint = f"did you mean {close}?" if close else "declare it with @task or @training"
            raise RefusedError(
                f"{one_line(name)!r} is no declared task of the configured modules",
                hint=f"{hint} `hpcpools tasks` lists them; modules are listed in [project] modules",
            ) from None

    def short(self, name: str) -> Entry:
        """Like :meth:`get`, and served by the short pool."""
        entry = self.get(name)
        if entry.is_training:
            raise RefusedError(f"{name} goes to the training pool", hint=f"use `hpcpools train {name}`")
        return entry

    def training(self, name: str) -> Entry:
        """Like :meth:`get`, and served by the training pool."""
        entry = self.get(name)
        if not entry.is_training:
            raise RefusedError(
                f"{name} goes to the short pool (queue {entry.queue})", hint=f"use `hpcpools enqueue {name}`"
            )
        return entry


def load(config: Config) -> Catalog:
    """Import the configured modules and route what they declare.

    Raises ConfigError for a module that does not import and for a wrong line of the routing table.
    """
    add_to_path(config.python_path)
    entries: dict[str, Entry] = {}
    for module_name in (*config.project.modules, BUILT_IN):
        for name, function, declaration in _declared(config, module_name):
            entries[name] = _route(config, name, function, declaration)
    for name in config.routing:
        if name not in entries:
            close = _closest(name, list(entries))
            raise ConfigError(
                f"{config.file}: routing.{name!r} names no declared task",
                hint=f"did you mean {close}?" if close else "`hpcpools tasks` lists them",
            )
    for training, task in config.continuous_evaluation.items():
        for name, wanted in ((training, True), (task, False)):
            if name not in entries or entries[name].is_training != wanted:
                pool = "training" if wanted else "short task"
                raise ConfigError(
                    f"{config.file}: continuous_evaluation.{training!r} = {task!r}: "
                    f"{name!r} is no declared {pool}",
                    hint='write "package.module:training" = "package.module:task"',
                )
    return Catalog(entries)


def add_to_path(folders: tuple[str, ...]) -> None:
    """Make the user's modules importable, last, so that they can shadow no installed package (SEC-13)."""
    for folder in folders:
        if folder not in sys.path:
            sys.path.append(folder)


def accepts_run(function: Callable[..., Any]) -> bool:
    """True if the function wants the run context: it has a parameter named ``run``."""
    return "run" in _signature(function).parameters


@functools.cache
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


def check_arguments(entry: Entry, arguments: dict[str, Any]) -> None:
    """Raise UsageError if ``arguments`` do not fit the function's signature."""
    extra = {"run": None} if accepts_run(entry.function) else {}
    if "run" in arguments:
        raise UsageError("argument 'run' is reserved", hint="hpcpools passes the run context itself")
    try:
        _signature(entry.function).bind(**arguments, **extra)
    except TypeError as error:
        raise UsageError(
            f"{entry.name}: {error}", hint=f"its signature is {_signature(entry.function)}"
        ) from None


def destination(config: Config, entry: Entry, asked: str | None = None) -> str:
    """The queue of one job of a short task; ``asked`` is what its caller wants.

    Raises RefusedError if no queue here can serve it.
    """
    queue = asked or entry.queue
    needs = getattr(entry.declaration, "needs", "") or "Slurm"
    if entry.queue == LANE_QUEUE and queue != LANE_QUEUE:
        raise RefusedError(
            f"{entry.name} needs {needs}, and the workers of queue {one_line(queue)} are on this machine",
            hint=f"leave the queue out: it goes to {LANE_QUEUE}, the lane's",
        )
    if queue == LANE_QUEUE and not config.has_lane:
        raise RefusedError(
            f"{entry.name} needs {needs}, and no Slurm lane is configured",
            hint="name its partition in [lane] of hpcpools.toml, or send the task to a short queue in "
            "[routing] if this machine can run it",
        )
    return queue


def _declared(config: Config, module_name: str) -> Iterator[tuple[str, Callable[..., Any], Declaration]]:
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(
            f"{config.file}: project.modules: {module_name!r} does not import: "
            f"{type(error).__name__}: {one_line(str(error))}",
            hint=f"searched after sys.path: {', '.join(config.python_path)}",
        ) from error
    for attribute, value in vars(module).items():
        declaration = getattr(value, MARK, None)
        if not isinstance(declaration, (TaskDeclaration, TrainingDeclaration)) or not inspect.isroutine(
            value
        ):
            continue
        # A declared function imported from elsewhere is listed only by the module that defines it.
        if module_name in (value.__module__, BUILT_IN):
            yield f"{module_name}:{attribute}", value, declaration


def _route(config: Config, name: str, function: Callable[..., Any], declaration: Declaration) -> Entry:
    declared = TRAINING_QUEUE
    if isinstance(declaration, TaskDeclaration):
        declared = LANE_QUEUE if declaration.needs else declaration.queue
    queue = config.routing.get(name, declared)
    if queue != TRAINING_QUEUE and isinstance(declaration, TrainingDeclaration):
        raise ConfigError(
            f"{config.file}: routing.{name!r} = {queue!r}, but it is declared @training",
            hint="a training needs a run context; declare a @task that calls the same code",
        )
    if queue not in (*config.short.queues, LANE_QUEUE, TRAINING_QUEUE):
        raise ConfigError(
            f"{name} is declared with queue={queue!r}, which no pool serves",
            hint=f"allowed: {', '.join((*config.short.queues, TRAINING_QUEUE))}",
        )
    return Entry(name, queue, function, declaration, "config" if name in config.routing else "declaration")


def _closest(name: str, names: list[str]) -> str:
    import difflib

    return next(iter(difflib.get_close_matches(name, names, n=1)), "")
