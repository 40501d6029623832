"""The points of a sweep: from ``lr=1e-4,1e-3 seed=0..4`` or a TOML file to one dict of arguments each,
or one command line each.

Pure: same definition, same points in the same order. Refuses more than MAX_POINTS.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from hpcpools.errors import UsageError
from hpcpools.runs.sweeps import Definition, Sampling
from hpcpools.textsafe import key_values, one_line, printable

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_POINTS = 10_000
_RANGE = re.compile(r"(-?\d{1,15})\.\.(-?\d{1,15})")
_PLACE = re.compile(r"\{\{(?P<text>[A-Za-z_]\w*)\}\}|\{(?P<name>[A-Za-z_]\w*)\}", re.ASCII)
_DIALS = {"low", "high", "log"}


def define(
    words: Sequence[str],
    target: str = "",
    text: str = "",
    max_parallel: int = 0,
    command: Sequence[str] = (),
) -> Definition:
    """The definition that a TOML ``text`` and the command line's ``words`` give; the words win, by name.

    Raises UsageError for anything that is not understood, before anything is written.
    """
    base = _from_toml(text) if text else Definition()
    fixed, grid = dict(base.fixed), {name: list(values) for name, values in base.grid.items()}
    sampling = base.random
    for name, values in axes(words).items():
        fixed.pop(name, None)
        grid.pop(name, None)
        if sampling is not None and name in sampling.choose:
            rest = {other: dial for other, dial in sampling.choose.items() if other != name}
            sampling = msgspec.structs.replace(sampling, choose=rest)
        if len(values) == 1:
            fixed[name] = values[0]
        else:
            grid[name] = values
    parallel = max_parallel or base.max_parallel
    if command or target:
        base = msgspec.structs.replace(base, target=target, command=tuple(command))
    definition = Definition(base.target, fixed, grid, sampling, parallel, base.command)
    check(definition)
    return definition


def axes(words: Sequence[str]) -> dict[str, list[Any]]:
    """``("lr=1e-4,1e-3", "seed=0..2")`` → ``{"lr": [0.0001, 0.001], "seed": [0, 1, 2]}``."""
    found: dict[str, list[Any]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or name in found:
            key_values([word, word] if equals else [word])  # says what is wrong, as train does
        key_values([f"{name}="])
        found[name] = values(name, text)
    return found


def values(name: str, text: str) -> list[Any]:
    """The values of one axis: ``a,b,c``, ``0..4``, or one value; each JSON where it is JSON, else text.

    A comma inside quotes, brackets or braces parts nothing.
    """
    found: list[Any] = []
    for item in _items(text):
        if not item and text:
            raise UsageError(
                f"{name}={printable(text)!r} has an empty value", hint="quote a text that holds a comma"
            )
        found.extend(
            _range(name, item) if _RANGE.fullmatch(item) else key_values([f"{name}={item}"]).values()
        )
    return found


def points(definition: Definition) -> list[dict[str, Any]]:
    """The arguments of every run, in order: the grid's last axis runs fastest, samples within each point."""
    combined = itertools.product(*definition.grid.values())
    grid = [dict(zip(definition.grid, chosen, strict=True)) for chosen in combined]
    drawn = samples(definition.random) if definition.random else [{}]
    return [{**definition.fixed, **point, **sample} for point in grid for sample in drawn]


def fill(command: Sequence[str], point: dict[str, Any]) -> tuple[str, ...]:
    """``command`` with each ``{NAME}`` replaced by its value, text as it is, all else as JSON; ``{{NAME}}``
    stands for ``{NAME}`` itself. Words stay words: no shell ever reads them."""

    def value(found: re.Match[str]) -> str:
        if found["name"] is None:
            return f"{{{found['text']}}}"
        given = point[found["name"]]
        return given if isinstance(given, str) else json.dumps(given)

    return tuple(_PLACE.sub(value, word) for word in command)


def samples(sampling: Sampling) -> list[dict[str, Any]]:
    """``count`` draws. Each name has a stream of its own: another name, or a larger count, changes none."""
    streams = {name: random.Random(f"{sampling.seed}:{name}") for name in sampling.choose}  # noqa: S311
    return [
        {name: _draw(dial, streams[name].random()) for name, dial in sampling.choose.items()}
        for _ in range(sampling.count)
    ]


def varied(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The names of the arguments that differ between the runs; all names if none does."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    found = [name for name in names if len({json.dumps(row.get(name)) for row in rows}) > 1]
    return found or names


def _draw(dial: Any, chance: float) -> Any:
    """The value at ``chance`` (0 ≤ chance < 1) of a list, or of ``{low, high, log}``; whole bounds are whole.

    Only ``random()`` is used: its sequence is the same in every Python.
    """
    if isinstance(dial, list):
        return dial[int(chance * len(dial))]
    low, high = dial["low"], dial["high"]
    if dial.get("log"):
        value = math.exp(math.log(low) + chance * (math.log(high) - math.log(low)))
        return round(value) if isinstance(low, int) and isinstance(high, int) else value
    if isinstance(low, int) and isinstance(high, int):
        return low + int(chance * (high - low + 1))
    return low + chance * (high - low)


def _items(text: str) -> Iterator[str]:
    depth, quoted, start, escaped = 0, False, 0, False
    for at, sign in enumerate(text):
        if quoted:
            quoted = escaped or sign != '"'
            escaped = sign == "\\" and not escaped
        elif sign == '"':
            quoted = True
        elif sign in "[{":
            depth += 1
        elif sign in "]}":
            depth -= 1
        elif sign == "," and depth == 0:
            yield text[start:at]
            start = at + 1
    yield text[start:]


def _range(name: str, text: str) -> list[int]:
    first, last = map(int, text.split(".."))
    if not 0 <= last - first < MAX_POINTS:
        raise UsageError(f"{name}={text}: not a range", hint=f"FIRST..LAST, at most {MAX_POINTS} values")
    return list(range(first, last + 1))


def _from_toml(text: str) -> Definition:
    try:
        facts = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the sweep file is not valid TOML: {error}", hint="see https://toml.io") from None
    grid = facts.get("grid")
    if isinstance(grid, dict):
        facts["grid"] = {
            name: values(name, axis) if isinstance(axis, str) else axis if isinstance(axis, list) else [axis]
            for name, axis in grid.items()
        }
    try:
        return msgspec.convert(facts, Definition)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"the sweep file is wrong: {one_line(str(error))}",
            hint="tables [fixed], [grid], [random] with count, seed and [random.choose]",
        ) from None


def check(definition: Definition) -> None:
    """Raise UsageError for what no sweep can be made of."""
    sampling = definition.random
    count = math.prod(map(len, definition.grid.values())) * (sampling.count if sampling else 1)
    if not 1 <= count <= MAX_POINTS or definition.max_parallel < 0:
        raise UsageError(
            f"a sweep of {count} runs, {definition.max_parallel} at once",
            hint=f"1 to {MAX_POINTS} runs; an empty axis gives none",
        )
    chosen = sampling.choose if sampling else {}
    names = [*definition.fixed, *definition.grid, *chosen]
    for name in names:
        key_values([f"{name}="])
        if names.count(name) > 1:
            raise UsageError(f"argument {name!r} is given twice", hint="fixed, grid or random.choose")
    for name, dial in chosen.items():
        _check_dial(name, dial)
    if bool(definition.target) == bool(definition.command):
        raise UsageError(
            "what shall be trained?" if not definition.target else "a target and a command",
            hint="either package.module:function, or -- COMMAND with {NAME} in it; or so in the file",
        )
    if definition.command:
        _check_command(definition.command, names)


def _check_command(command: Sequence[str], names: Sequence[str]) -> None:
    used = {found["name"] for word in command for found in _PLACE.finditer(word) if found["name"]}
    for name in sorted(used - set(names)):
        raise UsageError(
            f"the command has {{{name}}}, but {name} has no value",
            hint=f"{name}=A,B,C before the --, or {{{{{name}}}}} for the text itself",
        )
    for name in names:
        if name not in used:
            raise UsageError(f"{name} is nowhere in the command", hint=f"write {{{name}}} where it goes")


def _check_dial(name: str, dial: Any) -> None:
    hint = "a list of values, or {low = 1e-5, high = 1e-2, log = true}"
    if isinstance(dial, list) and dial:
        return
    if not isinstance(dial, dict) or not {"low", "high"} <= dial.keys() <= _DIALS:
        raise UsageError(f"random.choose.{name} cannot be drawn from", hint=hint)
    low, high = dial["low"], dial["high"]
    numbers = all(type(bound) in (int, float) and math.isfinite(bound) for bound in (low, high))
    if not numbers or low > high or (dial.get("log") and low <= 0):
        raise UsageError(f"random.choose.{name}: {low!r} to {high!r} is no range", hint=hint)
