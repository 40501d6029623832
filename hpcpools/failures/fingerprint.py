"""What two failures have in common when they are the same failure. Pure functions of text.

A traceback is reduced to the kind of the exception, the function that raised it and its message without what
differs each time: numbers, addresses, paths, ids.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

_FRAME = re.compile(r'^\s*File "([^"]*)", line \d+, in (\S+)')
_KIND = re.compile(r"^([A-Za-z_][\w.]*)(?:: (.*))?$")
_VARYING = (
    (re.compile(r"\bh[pqsl]-[0-9a-z]{26}\b"), "ID"),
    (re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", re.IGNORECASE), "ID"),
    (re.compile(r"0x[0-9a-fA-F]+"), "N"),
    (re.compile(r"(?:/[^\s/'\":,;]+)+/([^\s/'\":,;]+)"), r"\1"),  # the last part of a path tells what it was
    (re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"), "N"),
)
LONGEST = 300  # characters of a message that count


@dataclass(frozen=True)
class Fingerprint:
    """``what`` for people; equal ``group``: the same failure."""

    group: str
    what: str


def of(cause: str, text: str, where: str = "") -> Fingerprint:
    """From a cause and the traceback or last words; ``where``: nodes, for failures that are theirs."""
    kind, place = _raised(text)
    words = normalised(kind or cause)
    what = f"{words} (in {place})" if place else words
    if where:
        what = f"{what} on {where}"
    digest = hashlib.sha256("\0".join((cause, words, place, where)).encode()).hexdigest()[:8]
    return Fingerprint(digest, what)


def normalised(text: str) -> str:
    """The first line without what differs each time."""
    line = text.strip().splitlines()[0][:LONGEST] if text.strip() else ""
    for pattern, word in _VARYING:
        line = pattern.sub(word, line)
    return line


def _raised(text: str) -> tuple[str, str]:
    """The exception's line of a traceback, and ``file:function`` that raised it; the last line otherwise."""
    lines = [line for line in text.splitlines() if line.strip()]
    frames = [found for line in lines if (found := _FRAME.match(line))]
    place = ""
    if frames:
        file, function = frames[-1].groups()
        place = f"{file.rpartition('/')[2]}:{function}"
        after = max(number for number, line in enumerate(lines) if _FRAME.match(line))
        told = next((line for line in lines[after + 1 :] if _KIND.match(line)), "")
        if told:
            return told, place
    return (lines[-1].strip() if lines else ""), place
