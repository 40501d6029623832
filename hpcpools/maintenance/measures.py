"""What the index knows of a run besides its summary: waits, restarts and GPU-hours, for whoever adds them up.

Measured when the index is written, so that a reader of many runs opens no file of theirs.
"""

from __future__ import annotations

from typing import Any

from hpcpools.runs import restarts, telemetry, usage
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.states import RunState
from hpcpools.runs.view import View

OLD = 300.0  # seconds after which a GPU sample says nothing about now


def measured(run: RunDirectory, view: View, now: float) -> dict[str, Any]:
    """Facts as JSON values; times in seconds since the epoch, utilisation from 0 to 1."""
    asked = view.request.resources
    submissions = [run.submission(number) for number in range(1, view.submission + 1)]
    facts: dict[str, Any] = {
        "started": view.attempts[0].started if view.attempts else None,
        "restarts": dict(restarts.used(submissions, view.attempts)),
        "breaker": view.breaker,
    }
    if asked.gpus:
        spent = usage.hours(usage.closed(run, view, now), asked.gpus, asked.nodes, 0.0)
        facts["gpu_hours"] = {"held": spent.held, "measured": spent.measured, "used": spent.used}
        if view.state is RunState.RUNNING and view.attempt is not None:
            facts |= _now(view, now)
    return facts


def _now(view: View, now: float) -> dict[str, Any]:
    """``gpu_utilisation``, the mean over the GPUs of all nodes, and ``gpu_verdict``, the first node's."""
    busy: list[float] = []
    said: list[str] = []
    for folder in view.attempt.folders if view.attempt else ():
        line = telemetry.last_line(folder)
        if not line or now - float(line.get("at", 0.0)) > OLD:
            continue
        said.append(str(line.get("verdict", "")))
        for sample in line.get("gpus", ()):
            if isinstance(sample.get("util"), (int, float)):
                busy.append(sample["util"] / 100)
    return {
        "gpu_utilisation": sum(busy) / len(busy) if busy else None,
        "gpu_verdict": said[0] if said else "",
    }
