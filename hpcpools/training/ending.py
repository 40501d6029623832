"""How a training ended, as data: of a process, of a rank in its own words, of an attempt."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from hpcpools import atomic
from hpcpools.runs.attempts import Outcome
from hpcpools.runs.states import Cause

STOPPED_EXIT = 75  # EX_TEMPFAIL: stopped early, resumable; commands may use it too


@dataclass(frozen=True)
class Ending:
    """How a training ended; ``result`` is the text of a JSON value."""

    outcome: Outcome
    exit_code: int = 0
    signal: int | None = None
    cause: Cause = Cause.NONE
    error: str = ""
    result: str = "null"


def write_rank_ending(attempt: Path, rank: int, ending: Ending) -> None:
    """A rank's own account of its end, for the entry process."""
    facts = {**vars(ending), "cause": ending.cause.value, "at": time.time()}
    atomic.write_json(attempt / f"rank-{rank}.json", facts)


def read_rank_ending(attempt: Path, ranks: int) -> Ending | None:
    """The account of the rank that failed first, else rank 0's; None unless all ``ranks`` left theirs.

    A rank that fails takes the others along, whose errors tell only that: "connection closed by peer".
    """
    found: dict[int, Ending] = {}
    failed: list[tuple[float, int]] = []
    for path in attempt.glob("rank-*.json"):
        facts = atomic.read_json(path)
        if facts is not None:
            rank, at, cause = int(path.stem.removeprefix("rank-")), facts.pop("at"), Cause(facts.pop("cause"))
            found[rank] = Ending(**facts, cause=cause)
            if found[rank].outcome == "failed":
                failed.append((at, rank))
    if failed:
        return found[min(failed)[1]]
    return found.get(0) if len(found) == ranks else None
