"""A template's text: its fields, and the text with other values in them.

A field is an option in a ``#SBATCH`` line of the header, or a shell variable set on a line marked EDIT. Owns
the validation of each field's value (SEC-8). Refuses what the template does not have, but a few options that
any script may get.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from hpcpools.errors import UsageError
from hpcpools.textsafe import escape, one_line, slurm_field

MARK = "# EDIT"
ADDABLE = ("account", "comment", "constraint", "nodelist", "partition", "qos", "reservation", "time")
_OPTION = re.compile(r"(?<=\s)--([a-z][a-z-]*)=([^\s#]+)")
_VARIABLE = re.compile(r"([A-Za-z_]\w*)=(\(.*\)|[^\s()#]*)(\s+# EDIT.*)?")
_DIRECTIVE = "#SBATCH"
# Fields whose values are no plain Slurm words.
_PATH = re.compile(r"[A-Za-z0-9_./%][A-Za-z0-9_./%+=:@,-]{0,254}")
_ARRAY = re.compile(r"[0-9][0-9,:%-]{0,127}")
_JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,:=@+-]{0,127}")  # no /: %x stands in file names
_SPECIAL = {
    "job-name": _JOB_NAME,
    "output": _PATH,
    "error": _PATH,
    "input": _PATH,
    "chdir": _PATH,
    "array": _ARRAY,
}
MAX_WORDS = 4096  # characters of a shell variable's value


class Script:
    """``options`` and ``variables``: the fields with their values as they stand in the text."""

    def __init__(self, text: str) -> None:
        self.lines = text.split("\n")
        if not self.lines[0].startswith("#!"):
            raise UsageError(f"a template begins with #!, not {one_line(text, 40)!r}", hint="#!/bin/bash")
        if escape(text) != text:
            raise UsageError("the template holds characters that cannot be seen", hint="take them out")
        self.header = header_length(self.lines)
        self.options: dict[str, str] = {}
        self.variables: dict[str, str] = {}
        for line in self.lines[: self.header]:
            if line.startswith(_DIRECTIVE):
                self.options.update(_OPTION.findall(_split(line)[0]))
        for line in self.lines[self.header :]:
            if found := _editable(line):
                self.variables[found.group(1)] = found.group(2)

    @property
    def about(self) -> str:
        """The first sentence of the comment below the first line, for a list."""
        first = self.lines[1] if len(self.lines) > 1 else ""
        return one_line(first.lstrip("# ").partition(":")[0]) if first.startswith("# ") else ""

    @property
    def edits(self) -> dict[str, str]:
        """The fields that a site or a user has to look at: those of the lines marked EDIT."""
        marked = [line for line in self.lines[: self.header] if MARK in line]
        named = [name for line in marked for name, _ in _OPTION.findall(_split(line)[0])]
        return {**{name: self.options[name] for name in named}, **self.variables}

    def render(self, values: Mapping[str, str]) -> str:
        """The text with ``values`` in its fields. Raises UsageError for an unknown field or a bad value.

        A variable's value is the words of a command, split as a shell would; in the script they are literal.
        """
        options, variables = {}, {}
        for given, value in values.items():
            name = given if given in self.variables else given.replace("_", "-")
            if name in self.variables:
                variables[name] = _words(name, value, array=self.variables[name].startswith("("))
            elif name in self.options or name in ADDABLE:
                options[name] = option_value(name, value)
            else:
                known = sorted({*self.options, *self.variables, *ADDABLE})
                raise UsageError(
                    f"this template has no field {one_line(given, 60)!r}", hint=f"it has: {', '.join(known)}"
                )
        header = [_with_options(line, options) for line in self.lines[: self.header]]
        last = max((i for i, line in enumerate(header) if line.startswith(_DIRECTIVE)), default=0)
        added = [f"{_DIRECTIVE} --{name}={options[name]}" for name in options if name not in self.options]
        body = [_with_variables(line, variables) for line in self.lines[self.header :]]
        return "\n".join([*header[: last + 1], *added, *header[last + 1 :], *body])


def header_length(lines: list[str]) -> int:
    """How many lines sbatch reads for options: until the first that is neither a comment nor empty."""
    return next((i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))


def option_value(name: str, value: str) -> str:
    """``value`` if it may stand in ``#SBATCH --name=value``. Raises UsageError."""
    pattern = _SPECIAL.get(name)
    if pattern is None:
        return slurm_field(name, value)
    if not pattern.fullmatch(value):
        raise UsageError(
            f"{name}={one_line(value, 80)!r} is not a valid Slurm value",
            hint=f"it must match {pattern.pattern}",
        )
    return value


def _words(name: str, value: str, *, array: bool) -> str:
    """``value`` as it stands behind ``name=``: one word, or the words of an array."""
    if len(value) > MAX_WORDS or one_line(value, MAX_WORDS) != value:
        raise UsageError(
            f"{name}={one_line(value, 80)!r} holds more than one line, or characters that cannot be seen",
            hint=f"one line of at most {MAX_WORDS} characters",
        )
    if not array:
        return shlex.quote(value)
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise UsageError(f"{name}={one_line(value, 80)!r}: {error}", hint="close every quote") from None
    if not words:
        raise UsageError(f"{name} is empty", hint=f'{name}="python train.py"')
    return f"({shlex.join(words)})"


def _split(line: str) -> tuple[str, str]:
    """A line's options, and the comment behind them."""
    found = re.search(r"\s#", line)
    return (line[: found.start()], line[found.start() :]) if found else (line, "")


def _with_options(line: str, options: Mapping[str, str]) -> str:
    if not line.startswith(_DIRECTIVE):
        return line
    text, comment = _split(line)
    return _OPTION.sub(lambda m: f"--{m[1]}={options.get(m[1], m[2])}", text) + comment


def _editable(line: str) -> re.Match[str] | None:
    found = _VARIABLE.fullmatch(line)
    return found if found and found.group(3) else None


def _with_variables(line: str, variables: Mapping[str, str]) -> str:
    found = _editable(line)
    if not found or found.group(1) not in variables:
        return line
    return f"{found.group(1)}={variables[found.group(1)]}{found.group(3)}"
