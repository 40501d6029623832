"""A run as lists show it: the row, how it is read, searched and sorted. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from hpcpools.runs.states import RunState
from hpcpools.runs.token import created_at
from hpcpools.textsafe import one_line

SORTS = ("created", "since", "state", "what", "gpus", "step", "node")
UNREADABLE = "UNREADABLE"


class Row(msgspec.Struct, frozen=True):
    """One run as lists show it; the fields are those of ``maintenance.metrics.summary``. Times: epoch s."""

    run: str
    state: str
    since: float
    created: float
    engine: str = ""
    what: str = ""
    label: str = ""
    cause: str = ""
    reason: str = ""
    partition: str = ""
    node: str = ""
    job_id: str = ""
    gpus: int = 0
    nodes: int = 1
    attempts: int = 0
    step: int | None = None
    total: int | None = None
    as_of: float = 0.0

    @property
    def name(self) -> str:
        """What people call it."""
        return self.label or self.what


@dataclass(frozen=True)
class Page:
    """Some rows of those that fit, and how many there are; ``loaded`` of ``known`` runs have been read."""

    rows: list[Row]
    found: int
    loaded: int
    known: int


FINAL = {state.value for state in RunState if state.is_final}
LIVE = {state.value for state in RunState} - FINAL


def parsed(facts: bytes | dict[str, Any]) -> Row | None:
    """A summary as a row; None for what anybody may have written into the index."""
    try:
        if isinstance(facts, bytes):
            return msgspec.json.decode(facts, type=Row)
        return msgspec.convert(json.loads(json.dumps(facts)), Row)
    except (msgspec.MsgspecError, ValueError):
        return None


def searched(row: Row) -> str:
    """What a search looks through."""
    return "\n".join((row.run, row.label, row.what, row.node, row.job_id, row.partition, row.cause)).lower()


def sort_key(sort: str) -> Callable[[Row], Any]:
    """How rows are compared for one of SORTS."""
    if sort == "what":
        return lambda row: row.name.lower()
    if sort == "step":
        return lambda row: -1 if row.step is None else row.step
    return lambda row: getattr(row, sort)


def unreadable(name: str, error: Exception) -> Row:
    """In place of a run whose files are damaged, or not ours."""
    at = created_at(name)
    return Row(name, UNREADABLE, at, at, reason=one_line(str(error)))
