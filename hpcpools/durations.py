"""Lengths of time, as people and Slurm write them.

Owns the reading (``90``, ``30s``, ``5m``, ``12h``, ``1d``, ``HH:MM:SS``, ``D-HH:MM``) and the showing.
"""

from __future__ import annotations

import re

from hpcpools.errors import UsageError

_UNIT = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_WORDS = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):(\d{1,2})(?::(\d{1,2}))?")
ALLOWED = "seconds as a number, 30s, 5m, 12h, 1d, 1h30m, HH:MM:SS or D-HH:MM:SS"


def seconds(value: str | float) -> float:
    """Length in seconds. Raises UsageError for anything that is not a positive length."""
    if isinstance(value, bool):
        raise UsageError(f"{value!r} is not a length of time", hint=ALLOWED)
    if isinstance(value, (int, float)):
        total = float(value)
    else:
        total = _parse(value.strip())
    if not 0 < total < 366 * 86400:
        raise UsageError(f"{value!r} is not a length of time between 1 second and a year", hint=ALLOWED)
    return total


def _parse(text: str) -> float:
    if clock := _CLOCK.fullmatch(text):
        days, first, second, third = clock.groups()
        if third is None and days is None:  # Slurm reads a bare 12:30 as minutes:seconds, people as hours
            raise UsageError(f"{text!r} is ambiguous", hint="write HH:MM:SS, or 12h30m")
        total = int(days or 0) * 86400 + int(first) * 3600 + int(second) * 60 + int(third or 0)
        return float(total)
    parts = _WORDS.findall(text)
    if parts and "".join(f"{n}{u}" for n, u in parts) == text.replace(" ", ""):
        return sum(float(number) * _UNIT[unit] for number, unit in parts)
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{text!r} is not a length of time", hint=ALLOWED) from None


def minutes(value: str | float) -> int:
    """Whole minutes, rounded up: the unit of Slurm's wall time."""
    return -(-int(-(-seconds(value) // 1)) // 60)


def slurm_minutes(text: str) -> int | None:
    """A ``TIMELIMIT`` of sinfo or scontrol in minutes; None for ``infinite``, ``UNLIMITED`` and the like.

    Source: sinfo(1) ``%l``: ``days-hours:minutes:seconds`` with leading parts left out.
    """
    days, _, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in parts) or (days and not days.isdigit()):
        return None
    numbers = [int(part) for part in parts]
    if days:
        numbers += [0] * (3 - len(numbers))
    numbers = [0] * (3 - len(numbers)) + numbers if not days else numbers
    hours, mins, secs = numbers[:3]
    return int(days or 0) * 1440 + hours * 60 + mins + (1 if secs else 0)


def clock(minutes_: int) -> str:
    """``D-HH:MM:SS`` for Slurm and for people."""
    days, rest = divmod(int(minutes_), 1440)
    return (f"{days}-" if days else "") + f"{rest // 60:02d}:{rest % 60:02d}:00"


def age(seconds_: float) -> str:
    """A short age: ``3s``, ``5m``, ``2h``, ``4d``."""
    value = max(0.0, seconds_)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if value >= size:
            return f"{int(value // size)}{unit}"
    return f"{int(value)}s"


def due(left: float) -> str:
    """When something is due in ``left`` seconds: ``in 5m``, or ``3s late``."""
    return f"in {age(left)}" if left >= 0 else f"{age(-left)} late"
