"""GPU-hours of the pool: held (GPUs times wall time of attempts) and used (by measured utilisation).

Counted from our own records alone, over all attempts of a run. Refuses to invent: hours for which nothing was
measured are counted as held and said to be unmeasured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Literal

from msgspec.structs import replace

from hpcpools import atomic
from hpcpools.runs import telemetry
from hpcpools.runs.attempts import Attempt
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.states import RunState
from hpcpools.runs.view import View

By = Literal["user", "run", "partition", "label"]


@dataclass(frozen=True)
class Hours:
    """GPU-hours. ``used`` is of the ``measured`` ones, which are part of the ``held`` ones."""

    held: float = 0.0
    measured: float = 0.0
    used: float = 0.0

    def __add__(self, other: Hours) -> Hours:
        return Hours(self.held + other.held, self.measured + other.measured, self.used + other.used)


@dataclass(frozen=True)
class Row:
    """The sum over some runs; ``key`` is what they have in common."""

    key: str
    runs: int
    attempts: int
    hours: Hours


def closed(run: RunDirectory, view: View, now: float) -> tuple[Attempt, ...]:
    """The attempts, each with an end. One without a marker (its node was lost) ended when a look at Slurm
    first told that it ran no more, at the latest when the next one started."""
    running = view.attempts[-1:] if view.state is RunState.RUNNING else ()
    until = view.since if view.state.is_final else now
    looks = [
        event for event in run.events() if "of" in event and event.get("state") != RunState.RUNNING.value
    ]
    found = []
    for attempt, after in zip_longest(view.attempts, view.attempts[1:]):
        ends = [after.started if after else until]
        if attempt.ended is not None:
            ends = [attempt.ended]
        elif attempt not in running:
            told = (float(look["at"]) for look in looks if look["of"] == attempt.submission)
            ends += [at for at in told if at > attempt.started]
        found.append(replace(attempt, ended=max(attempt.started, min(ends))))
    return tuple(found)


def hours(attempts: Iterable[Attempt], gpus: int, nodes: int, since: float) -> Hours:
    """What attempts that have ended (see :func:`closed`) held and used after ``since``."""
    total = Hours()
    for attempt in attempts:
        end, begin = attempt.ended or 0.0, max(attempt.started, since)
        if end <= begin or not attempt.started:
            continue
        held = gpus * (end - begin) / 3600
        total += Hours(held=held * nodes)
        for folder in attempt.folders:
            seconds, last = _measured(folder, since if since > attempt.started else None)
            if seconds is not None:
                measured = gpus * (min(last, end) - begin) / 3600
                total += Hours(measured=min(held, max(0.0, measured)), used=seconds / 3600)
    return total


def _measured(folder: Path, since: float | None) -> tuple[float | None, float]:
    """GPU-seconds used on a node (None if nothing was measured) and the time of the last measurement."""
    whole_file = since is not None  # only an attempt that began before the window
    lines = atomic.newest_lines(
        folder / telemetry.FILE, tail_bytes=None if whole_file else telemetry.TAIL_BYTES
    )
    known = (
        (line["at"], line["used"]) for line in lines if _is_number(line, "at") and _is_number(line, "used")
    )
    newest = next(known, None)
    if newest is None:
        return None, 0.0
    at, used = newest
    if since is not None:
        used -= next((earlier for when, earlier in chain([newest], known) if when < since), 0.0)
    return used, at


def _is_number(line: dict[str, Any], name: str) -> bool:
    return isinstance(line.get(name), (int, float))


def summed(runs: Sequence[tuple[RunDirectory, View]], by: By, since: float, now: float) -> list[Row]:
    """One row for each user, run, partition or label that held GPUs since then; who held most comes first.

    Runs without GPUs are left out.
    """
    rows: dict[str, Row] = {}
    for run, view in runs:
        asked = view.request.resources
        attempts = [each for each in closed(run, view, now) if (each.ended or 0.0) > since]
        if not asked.gpus or not attempts:
            continue
        key = _key(view, by)
        row = rows.get(key, Row(key, 0, 0, Hours()))
        more = hours(attempts, asked.gpus, asked.nodes, since)
        rows[key] = Row(key, row.runs + 1, row.attempts + len(attempts), row.hours + more)
    return sorted(rows.values(), key=lambda row: (-row.hours.held, row.key))


def _key(view: View, by: By) -> str:
    request = view.request
    if by == "partition":
        return "(local)" if request.engine == "local" else request.resources.partition or "(default)"
    return {"user": request.user, "run": request.token, "label": request.label}[by] or "(none)"
