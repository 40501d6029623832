"""How values look on a page: text that cannot mislead, numbers, times, states. Templates escape markup."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from markupsafe import Markup

from hpcpools import durations
from hpcpools.textsafe import one_line, printable

# What a state means to a reader; its colour in app.css. The word is always written beside it.
TONES = {
    "COMPLETED": "good",
    "completed": "good",
    "finished": "good",
    "on": "good",
    "running": "good",
    "RUNNING": "busy",
    "started": "busy",
    "busy": "busy",
    "PENDING": "wait",
    "SUBMITTING": "wait",
    "WAITING": "wait",
    "READY": "wait",
    "queued": "wait",
    "deferred": "wait",
    "scheduled": "wait",
    "starting": "wait",
    "FAILED": "bad",
    "failed": "bad",
    "LOST": "bad",
    "UNREADABLE": "bad",
    "OUT_OF_MEMORY": "bad",
    "backoff": "bad",
    "BLOCKED": "bad",
    "TIMEOUT": "warn",
    "CANCELLED": "warn",
    "canceled": "warn",
    "stopped": "warn",
    "killed": "warn",
    "paused": "warn",
    "suspended": "warn",
}


def text(value: Any, limit: int = 200) -> str:
    """One line, without what hides or reorders characters."""
    return "" if value is None else one_line(str(value), limit)


def block(value: Any) -> str:
    """Several lines."""
    return "" if value is None else printable(str(value))


def commands(value: Any, limit: int = 600) -> Markup:
    """A sentence of ours, the commands that it has in backticks set as code."""
    parts = text(value, limit).split("`")
    return Markup("").join(  # joining escapes the parts
        Markup("<code>{}</code>").format(part) if number % 2 and number < len(parts) - 1 else part
        for number, part in enumerate(parts)
    )


def tone(state: Any) -> str:
    """The class of a state."""
    return TONES.get(str(state), "still")


def number(value: Any) -> str:
    """Four digits."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return text(value, 60)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def size(value: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def age(at: float | None) -> str:
    """``5m ago``; ``in 5m`` for what is to come."""
    if not at:
        return "never"
    past = time.time() - at
    return f"{durations.age(past)} ago" if past >= 0 else f"in {durations.age(-past)}"


def clock(at: float | None) -> str:
    """Local time of this host, with its zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(at)) if at else ""


def seconds(value: float | None) -> str:
    """A length of time."""
    return "" if value is None else durations.age(value)


def steps(row: Any) -> str:
    """``120 / 1,000``."""
    if row.step is None:
        return ""
    return f"{row.step:,} / {row.total:,}" if row.total else f"{row.step:,}"


def share(row: Any) -> int | None:
    """Percent of the steps."""
    return None if row.step is None or not row.total else max(0, min(100, 100 * row.step // row.total))


def pairs(values: Mapping[str, Any]) -> str:
    """``lr=0.1 steps=3``."""
    return " ".join(f"{text(name, 60)}={text(repr(value), 80)}" for name, value in values.items())


def as_json(value: Any) -> str:
    """A JSON value as it is written."""
    return json.dumps(value, ensure_ascii=False)


FILTERS: dict[str, Callable[..., Any]] = {
    "text": text,
    "block": block,
    "tone": tone,
    "commands": commands,
    "number": number,
    "size": size,
    "age": age,
    "clock": clock,
    "seconds": seconds,
    "steps": steps,
    "share": share,
    "pairs": pairs,
    "json": as_json,
}
