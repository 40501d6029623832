"""``gpu.jsonl`` of an attempt: what its GPUs did, and the pure verdict idle, hung or starved over it.

Written by the sampler on the node, one line per interval; each line carries the sums, so that a reader
needs only the last one. A verdict that somebody shall be told of is a line in ``verdicts.jsonl`` beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hpcpools import atomic
from hpcpools.runs.attempts import Attempt
from hpcpools.schema import Telemetry

FILE = "gpu.jsonl"
ANNOUNCED = "verdicts.jsonl"
TAIL_BYTES = 64 * 1024
Verdict = Literal["", "idle", "hung", "starved"]


@dataclass(frozen=True)
class Point:
    """One moment: the busiest GPU and the mean of all in percent, and the newest step logged so far."""

    at: float
    busiest: float
    mean: float
    step: int | None


@dataclass(frozen=True)
class Usage:
    """GPUs held and used, in GPU-hours; ``verdict`` and ``samples`` of the newest measurement."""

    held: float
    used: float | None
    verdict: str = ""
    at: float | None = None
    samples: tuple[dict[str, Any], ...] = ()


def verdict(trace: Sequence[Point], limits: Telemetry) -> Verdict:
    """What is wrong at the end of ``trace`` (oldest first); "" if nothing is, or too little is known.

    hung: busy for ``hung_after`` without a new step, after at least one. idle: no GPU in use for
    ``idle_after`` and no new step. starved: steps go on, but the GPUs mostly wait for them.
    """
    seen = _last(trace, limits.hung_after)
    still = bool(seen) and seen[0].step is not None and seen[0].step == seen[-1].step
    if still and all(point.busiest >= limits.hung_percent for point in seen):
        return "hung"
    seen = _last(trace, limits.idle_after)
    still = bool(seen) and seen[0].step == seen[-1].step
    if still and all(point.busiest <= limits.idle_percent for point in seen):
        return "idle"
    seen = _last(trace, limits.starved_after)
    moves = bool(seen) and seen[0].step is not None and seen[0].step != seen[-1].step
    if moves and sum(point.mean for point in seen) / len(seen) < limits.starved_percent:
        return "starved"
    return ""


def window(limits: Telemetry) -> float:
    """How many seconds of trace :func:`verdict` looks at."""
    return max(limits.idle_after, limits.hung_after, limits.starved_after) + 2 * limits.interval


def usage(attempts: Iterable[Attempt], gpus: int, now: float) -> Usage:
    """The sum over a run's attempts, oldest first, where ``gpus`` are held on all nodes together.

    ``used`` is None if nothing was measured; verdict and samples are the first node's.

    ``now``: when the run ended, or the time. An attempt that left no marker held its GPUs until the next.
    """
    held, used, last = 0.0, None, {}
    every = list(attempts)
    for attempt, after in zip(every, [*(each.started for each in every[1:]), now], strict=False):
        if attempt.started:
            held += gpus * max(0.0, (attempt.ended or after) - attempt.started) / 3600
        measured = [last_line(folder) for folder in attempt.folders]  # of each node
        last = measured[0]
        for line in measured:
            if line.get("used") is not None:
                used = (used or 0.0) + float(line["used"]) / 3600
    return Usage(held, used, str(last.get("verdict", "")), last.get("at"), tuple(last.get("gpus", ())))


def append(
    folder: Path, at: float, used: float | None, step: int | None, said: Verdict, gpus: list[Any]
) -> None:
    """One line. ``used``: GPU-seconds so far in this attempt, None where the driver tells no utilisation."""
    line = {"at": round(at, 3), "used": used, "step": step, "verdict": said, "gpus": gpus}
    atomic.append_line(folder / FILE, line)


def announce(folder: Path, at: float, said: Verdict, policy: str, step: int | None) -> None:
    """Write down, on the node, that ``said`` is to be told."""
    atomic.append_line(folder / ANNOUNCED, {"at": at, "verdict": said, "policy": policy, "step": step})


def announced(attempt: Attempt) -> dict[str, dict[str, Any]]:
    """The first announcement of each verdict in an attempt. Refuses words that are none of ours."""
    found: dict[str, dict[str, Any]] = {}
    for folder in attempt.folders:
        for line in atomic.read_lines(folder / ANNOUNCED, tail_bytes=TAIL_BYTES):
            if line.get("verdict") in ("idle", "hung", "starved"):
                found.setdefault(line["verdict"], line)
    return found


def last_line(folder: Path) -> dict[str, Any]:
    """The newest measurement of a node in its folder of an attempt; empty if there is none."""
    return next(atomic.newest_lines(folder / FILE, tail_bytes=TAIL_BYTES), {})


def _last(trace: Sequence[Point], seconds: float) -> Sequence[Point]:
    """The points of the last ``seconds``; none if the trace is shorter than that."""
    if not trace or trace[-1].at - trace[0].at < seconds:
        return ()
    since = trace[-1].at - seconds
    first = next(index for index, point in enumerate(trace) if point.at >= since)
    return trace[max(0, first - 1) :]
