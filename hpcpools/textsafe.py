"""Hostile text made harmless: names that go into Slurm headers, text that goes to a terminal, path parts.

Owns every validation and escape of text that a user, a job or another program wrote. Refuses silently
repairing a name: a bad name is an error, only *display* text is escaped.
"""

from __future__ import annotations

import json
import re
from typing import Any

from hpcpools.errors import UsageError

_FIELD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,:=@+*&|!\[\]()/-]{0,127}")
_CALLABLE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_ARGUMENT = re.compile(r"[A-Za-z_]\w*", re.ASCII)
# C0 without \n and \t, DEL, C1, bidi controls, zero-width and line/paragraph separators.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb"
    "\ud800-\udfff]"
)

MAX_DISPLAY = 64 * 1024


def slurm_field(name: str, value: str) -> str:
    """A value for one ``#SBATCH --name=value`` line.

    Only letters, digits and the punctuation Slurm's own names use, 128 characters at most; so no quote,
    space, newline or ``#`` can end the line early (SEC-8). Raises UsageError.
    """
    if not _FIELD.fullmatch(value):
        raise UsageError(
            f"{name}={printable(value)!r} is not a valid Slurm value",
            hint="letters, digits and _ . , : = @ + - / [ ] only, a letter or digit first, at most 128",
        )
    return value


def callable_name(value: str) -> str:
    """``package.module:function``, or raise UsageError."""
    if not _CALLABLE.fullmatch(value) or len(value) > 256:
        raise UsageError(
            f"{printable(value)!r} is not a callable's name", hint="write it as package.module:function"
        )
    return value


def key_values(items: tuple[str, ...] | list[str]) -> dict[str, Any]:
    """``("lr=1e-3", "name=x")`` → ``{"lr": 0.001, "name": "x"}``.

    The value is read as JSON where it is JSON (numbers, true, null, quoted strings, lists), as plain text
    otherwise. Raises UsageError for a missing ``=``, a bad name or a repeated one.
    """
    found: dict[str, Any] = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not equals or not _ARGUMENT.fullmatch(name):
            raise UsageError(f"argument {printable(item)!r} is not NAME=VALUE", hint="for example lr=1e-3")
        if name in found:
            raise UsageError(f"argument {name!r} is given twice", hint="give each argument once")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def json_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """``arguments`` if they survive JSON unchanged; raise UsageError naming the first that does not."""
    for name, value in arguments.items():
        try:
            same = json.loads(json.dumps(value, allow_nan=False)) == value
        except (TypeError, ValueError, RecursionError):
            same = False
        if not same:
            raise UsageError(
                f"argument {name}={printable(repr(value))[:80]} ({type(value).__name__}) is not plain JSON",
                hint="pass numbers, strings, booleans, None, lists and dicts; a path for anything larger",
            )
    return arguments


def printable(text: str) -> str:
    """``text`` for a terminal or a log: control, bidi and zero-width characters become visible escapes."""
    return escape(text[:MAX_DISPLAY])


def escape(text: str) -> str:
    """:func:`printable` without the limit on length, for logs that are printed page by page."""
    return _UNSAFE.sub(_escape, text)


def one_line(text: str, limit: int = 200) -> str:
    """:func:`printable` on one line, cut to ``limit`` characters."""
    flat = printable(text).replace("\n", "\\n").replace("\t", " ")
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
