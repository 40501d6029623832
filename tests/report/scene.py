"""Runs whose numbers are known: hours, waits, states, and names written by somebody who means harm."""

from __future__ import annotations

import time
from pathlib import Path

from hpcpools.runs import directory, telemetry
from hpcpools.runs.attempts import Outcome, Place, claim, end
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.metrics import log
from hpcpools.runs.request import Request, Resources
from hpcpools.runs.states import Cause, RunState
from hpcpools.runs.token import new_token

HOUR = 3600.0
NOW = float(int(time.time()))
EVIL = "</title><script src='https://evil.example/x.js'>alert(1)</script>\"<img src=//evil>\u202e\x1b[2J"
FORMULA = '=HYPERLINK("https://evil.example","x")'


def plant(
    root: Path,
    label: str,
    state: RunState,
    *spans: tuple[float, float],
    created: float,
    gpus: int = 2,
    used: float | None = None,
    error: str = "",
) -> RunDirectory:
    """A run created so many hours ago whose attempts began and ended so many hours ago.

    ``used``: the share of its GPUs' time that was measured as used, over all of it.
    """
    at = NOW - created * HOUR
    asked = Resources(gpus=gpus, partition="gpu")
    run = directory.create(
        root, Request(new_token(at), at, "slurm", asked, target="t:f", label=label, user="me")
    )
    run.next_submission(at)
    for restart, (begin, stop) in enumerate(spans):
        start, ended = NOW - begin * HOUR, NOW - stop * HOUR
        folder = claim(run, 0, Place("lab", "7", restart, "n1", 1, 1, "b"), start)
        assert folder is not None
        if used is not None:
            telemetry.append(
                folder, ended, gpus * used * (ended - start), None, "", [{"util": 100 * used}] * gpus
            )
        last = restart == len(spans) - 1
        if not last or state.is_final:
            good: Outcome = "completed" if state is RunState.COMPLETED else "failed"
            cause = Cause.NONE if state is RunState.COMPLETED else Cause.USER_ERROR
            outcome: Outcome = good if last else "stopped"
            end(folder, outcome, ended, cause=cause, error=error, requeued="" if last else "preemption")
    if state.is_final:
        stopped = NOW - (spans[-1][1] if spans else created - 1) * HOUR
        cause = Cause.NONE if state is RunState.COMPLETED else Cause.USER_ERROR
        run.record(state, stopped, cause=cause.value, reason=error)
    else:
        run.record(state, NOW - (spans[-1][0] if spans else created) * HOUR, job_id="7")
    return run


def plant_all(root: Path) -> None:
    """In the last day 14 GPU-hours: 8 of which 6 used, 4 unmeasured, 2 of a hostile run. One is older."""
    plant(root, "good", RunState.COMPLETED, (10, 8), (7, 5), created=11, used=0.75)
    plant(root, "unmeasured", RunState.FAILED, (20, 18), created=23, error="Traceback\nValueError: cheese 17")
    plant(root, EVIL, RunState.FAILED, (4, 3), created=6, error=f"Traceback\nValueError: {EVIL}")
    plant(root, FORMULA, RunState.CANCELLED, created=2)
    plant(root, "on-cpus", RunState.COMPLETED, (3, 1), created=4, gpus=0)
    plant(root, "waits", RunState.PENDING, created=1)
    plant(root, "old", RunState.COMPLETED, (60, 50), created=70, used=1.0)


def curve(run: RunDirectory, *, bad: str = "val_loss") -> None:
    """Steps 1 to 60, of which 31 to 40 were logged twice, the second time with a lower loss."""
    for step in (*range(1, 41), *range(31, 61)):
        again = (
            step > 30 and run.metrics_file.exists() and run.metrics_file.read_text().count(f'"step":{step},')
        )
        value = {"loss": (1.0 if again else 2.0) / step, bad: 3.0 / step}
        log(run.metrics_file, NOW - HOUR + step, step, 60, value)
    for restart, folder in enumerate(sorted(run.attempts.iterdir())):
        for number in range(30):
            samples = [{"util": 50 + number}, {"util": 90}]
            telemetry.append(folder, NOW - (9 - 4 * restart) * HOUR + number, 1.0, None, "", samples)
