"""What the services say on stderr: one line per event, safe for any terminal.

Owns the format: ``action=... key=value`` for people, one JSON object for the supervisor's log files. Refuses
raw text: whatever a job or a user wrote is escaped and cut. Ids have one name each (IDS), whoever tells them.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from hpcpools.textsafe import one_line

log = logging.getLogger("hpcpools")
_PLAIN = re.compile(r"[\w.:/@+-]+", re.ASCII)
# By these the events of one piece of work are found in all logs: a short job, a training, Slurm's job, a
# batch of the lane, the worker that had it.
IDS = ("job", "run", "slurm_job", "batch", "worker")
_LONGEST = {"trace": 2000, "text": 2000}  # characters of a value; 300 for all others


class Event(str):
    """The line for people; ``facts`` are the same as values, ``action`` among them."""

    facts: dict[str, Any]


def event(action: str, /, **facts: object) -> Event:
    """``event("start", workers=4)`` → ``action=start workers=4``; None is left out, other text is quoted."""
    facts = {"job": _job() or None} | facts
    kept = {
        "action": action,
        **{name: _value(name, fact) for name, fact in facts.items() if fact is not None},
    }
    made = Event(text(kept))
    made.facts = kept
    return made


def while_in(job: Callable[[], str]) -> None:
    """Give this process' events the id of the short job that runs in it, or "", unless they name one."""
    global _job
    _job = job


def text(facts: Mapping[str, Any]) -> str:
    """Facts as words for people: ``name=value``, quoted where the value is not plain."""
    return " ".join(f"{name}={_word(value)}" for name, value in facts.items())


def to_stderr(*, as_json: bool | None = None) -> None:
    """Show our events from INFO and rq's own messages from WARNING.

    ``as_json``: one JSON object per line; None keeps what this process was told before.
    """
    global _as_json
    _as_json = _as_json if as_json is None else as_json
    handler = logging.StreamHandler()
    handler.setFormatter(
        _Json() if _as_json else _OneLine("%(asctime)s %(levelname)s pid=%(process)d %(message)s")
    )
    for name, level in (("hpcpools", logging.INFO), ("rq", logging.WARNING), ("rq.worker", logging.WARNING)):
        logging.getLogger(name).setLevel(level)
    for name in ("hpcpools", "rq"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False


_as_json = False
_job: Callable[[], str] = str


def stamp(at: float) -> str:
    """``2026-11-25T18:40:00.123Z``."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(at))}.{int(at * 1000) % 1000:03d}Z"


def _value(name: str, fact: object) -> Any:
    if isinstance(fact, bool | int):
        return fact
    if isinstance(fact, float):
        return round(fact, 3)
    return one_line(str(fact), _LONGEST.get(name, 300))


def _word(value: Any) -> str:
    words = f"{value:.3f}" if isinstance(value, float) else str(value)
    return words if _PLAIN.fullmatch(words) else f'"{words.replace(chr(34), chr(39))}"'


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return one_line(super().format(record), 4000)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        said = record.msg
        facts = said.facts if isinstance(said, Event) else {"text": one_line(record.getMessage(), 2000)}
        head = {"at": stamp(record.created), "level": record.levelname.lower(), "pid": record.process}
        return json.dumps(head | facts)
