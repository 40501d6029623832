"""What a pipeline is: named stages, what each waits for, and what it takes from earlier ones. Pure.

Owns the TOML form, references and every check before anything is written. Refuses unknown keys and cycles.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import product
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from hpcpools import catalog, durations, textsafe
from hpcpools.catalog import Catalog
from hpcpools.config import Config
from hpcpools.errors import ConfigError, HpcpoolsError
from hpcpools.runs.request import Engine
from hpcpools.training import plan

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_STAGES = 100
MAX_RUNS = 1000  # of one stage's sweep
FROM = "$from"
Policy = Literal["stop", "skip", "continue"]
# Part of file names and of job ids, hence short and plain.
Name = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,23}\Z")]


class Edge(Struct, frozen=True, forbid_unknown_fields=True):
    """One thing a stage waits for; an empty ``on_failure`` means that of the other stage."""

    stage: str
    on_failure: Literal["", "stop", "skip", "continue"] = ""


class Stage(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One step. ``gpus``, ``nodes``, ``time``, ``partition`` are for trainings; ``sweep`` makes one run per
    point, of which at most ``max_parallel`` run at once."""

    task: str
    after: tuple[str | Edge, ...] = ()
    arguments: dict[str, Any] = {}
    sweep: dict[str, list[Any]] = {}
    max_parallel: Annotated[int, Meta(ge=1)] | None = None
    on_failure: Policy = "stop"
    gpus: int | None = None
    nodes: int | None = None
    time: str | int | None = None
    partition: str = ""

    def points(self) -> list[dict[str, Any]]:
        """The swept arguments of each run, the last name fastest; one empty point without a sweep."""
        return [
            dict(zip(self.sweep, values, strict=True)) for values in product(*self.sweep.values())
        ]  # product of nothing is one ()


class Reference(Struct, frozen=True, forbid_unknown_fields=True):
    """``{"$from" = STAGE, key = "a.b"}``: a value of an earlier stage.

    ``of`` is its result, or for a training its run's token, directory or newest checkpoint (a path).
    """

    stage: str = msgspec.field(name=FROM)
    key: str = ""
    of: Literal["result", "token", "directory", "checkpoint"] = "result"


class Definition(Struct, frozen=True, forbid_unknown_fields=True):
    """A whole pipeline as a person wrote it."""

    stages: dict[Name, Stage]
    name: Annotated[str, Meta(max_length=100)] = ""


def read(file: Path) -> Definition:
    """The definition in a TOML file. Raises ConfigError naming the file and the place in it."""
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}", hint="give the path of a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not valid TOML: {error}", hint="see docs/pipelines.md") from None
    return parse(data, str(file))


def parse(data: Mapping[str, Any], where: str) -> Definition:
    """``data`` as a definition, with references, order and sweeps checked. Raises ConfigError."""
    try:
        found = msgspec.convert(data, Definition)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_explain(error, data)}", hint="see docs/pipelines.md") from None
    if not 0 < len(found.stages) <= MAX_STAGES:
        raise ConfigError(
            f"{where}: {len(found.stages)} stages", hint=f"a pipeline has 1 to {MAX_STAGES}, as [stages.NAME]"
        )
    for name, stage in found.stages.items():
        at = f"{where}: stages.{name}"
        for edge in _edges(stage, at):
            if edge.stage not in found.stages:
                raise ConfigError(
                    f"{at}: {textsafe.one_line(edge.stage)!r} is no stage",
                    hint=f"stages: {', '.join(found.stages)}",
                )
        _check_sweep(stage, at)
    try:
        order(found)
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        raise ConfigError(f"{where}: stages wait for each other: {circle}", hint="break the cycle") from None
    return found


def check(config: Config, listed: Catalog, definition: Definition, where: str, engine: Engine) -> None:
    """Every stage against the allow-list, its function's signature and its partition. Raises ConfigError."""
    for name, stage in definition.stages.items():
        try:
            _check_stage(config, listed, stage, engine, definition)
        except HpcpoolsError as error:
            raise ConfigError(f"{where}: stages.{name}: {error.message}", hint=error.hint) from None


def _check_stage(
    config: Config, listed: Catalog, stage: Stage, engine: Engine, definition: Definition
) -> None:
    entry = listed.get(textsafe.callable_name(stage.task))
    given = fill({**stage.arguments, **stage.points()[0]}, lambda _reference: None)
    textsafe.json_arguments(given)
    for reference in references(stage.arguments):
        if reference.of != "result" and not listed.get(definition.stages[reference.stage].task).is_training:
            raise ConfigError(
                f"of = {reference.of!r}, but {reference.stage} is no training", hint='only of = "result"'
            )
    if entry.is_training:
        plan.plan_callable(config, listed, entry.name, given, options=options(stage), engine=engine)
        return
    catalog.check_arguments(entry, given)
    catalog.destination(config, entry)
    wrong = [key for key in ("sweep", "gpus", "nodes", "time", "partition") if getattr(stage, key)]
    if wrong:
        raise ConfigError(f"{wrong[0]} is for trainings, but {entry.name} is a short task", hint="remove it")


def options(stage: Stage) -> plan.Options:
    """What a training stage asks for. Raises UsageError for a wrong time."""
    minutes = None if stage.time is None else durations.minutes(stage.time)
    return plan.Options(gpus=stage.gpus, nodes=stage.nodes, minutes=minutes, partition=stage.partition)


def edges(stage: Stage) -> dict[str, Edge]:
    """What the stage waits for, by name: what stands in ``after``, and what its arguments refer to."""
    return {edge.stage: edge for edge in _edges(stage, "")}


def order(definition: Definition) -> list[str]:
    """The names, each after all that it waits for. Raises graphlib.CycleError."""
    return list(TopologicalSorter({n: edges(s).keys() for n, s in definition.stages.items()}).static_order())


def descendants(definition: Definition, name: str) -> set[str]:
    """``name`` and all that waits for it, directly or not."""
    found = {name}
    for other in order(definition):
        if found & edges(definition.stages[other]).keys():
            found.add(other)
    return found


def references(value: Any) -> Iterator[Reference]:
    """Every reference in a value. Raises msgspec.ValidationError for a malformed one."""
    if isinstance(value, dict):
        if FROM in value:
            yield msgspec.convert(value, Reference)
            return
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from references(item)


def fill(value: Any, look_up: Callable[[Reference], Any]) -> Any:
    """``value`` with every reference replaced by what ``look_up`` says."""
    if isinstance(value, dict):
        if FROM in value:
            return look_up(msgspec.convert(value, Reference))
        return {key: fill(item, look_up) for key, item in value.items()}
    return [fill(item, look_up) for item in value] if isinstance(value, list) else value


def _edges(stage: Stage, at: str) -> Iterator[Edge]:
    """Implied edges first, so that a written one with its policy wins."""
    try:
        yield from (Edge(reference.stage) for reference in references(stage.arguments))
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"{at}.arguments: a reference is wrong: {error}",
            hint='write {"$from" = "STAGE", key = "NAME"}',
        ) from None
    yield from (Edge(edge) if isinstance(edge, str) else edge for edge in stage.after)


def _check_sweep(stage: Stage, at: str) -> None:
    if twice := set(stage.sweep) & set(stage.arguments):
        raise ConfigError(f"{at}: {sorted(twice)[0]!r} is an argument and swept", hint="give it once")
    if stage.max_parallel is not None and not stage.sweep:
        raise ConfigError(f"{at}.max_parallel is for a sweep", hint="remove it, or add a sweep")
    number = prod(len(values) for values in stage.sweep.values())
    if not 0 < number <= MAX_RUNS:
        raise ConfigError(f"{at}.sweep: {number} runs", hint=f"1 to {MAX_RUNS}: no list may be empty")


def _explain(error: msgspec.ValidationError, data: Mapping[str, Any]) -> str:
    """msgspec's message; it says ``[...]`` for a stage, so the first stage that fails alone is named."""
    message, _, path = str(error).partition(" - at `")
    stages = data.get("stages")
    if "[...]" in path and isinstance(stages, dict):
        for name, stage in stages.items():
            try:
                msgspec.convert({name: stage}, dict[Name, Stage])
            except msgspec.ValidationError:
                path = path.replace("[...]", f".{textsafe.one_line(str(name))}", 1).replace("key`", "", 1)
                break
    place = path.rstrip("`").removeprefix("$.").removeprefix("key` in `$.")
    return f"{place}: {message}" if place else message
