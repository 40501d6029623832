"""The end of a run on request: written down first, so that it holds even if Slurm does not answer."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence

from hpcpools.config import Config
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.states import Cause, RunState
from hpcpools.runs.view import View, read_view
from hpcpools.slurm import submit as slurm
from hpcpools.training import engine, localruns


def cancel(config: Config, runs: Sequence[RunDirectory], *, whole_arrays: bool = False) -> list[View]:
    """Cancel runs with one scancel for all; runs that are final stay as they are.

    ``whole_arrays``: ``runs`` are all runs of their sweeps, so an array is named once, not per element.
    A local run that has not started is cancelled at once; one that runs is ended by the local slot.
    Raises SlurmUnavailableError after the wish is on record: the node, or upkeep, will honour it.
    """
    now = time.time()
    job_ids = []
    for run in runs:
        view = read_view(run)
        if view.state.is_final:
            continue
        run.cancel(now)
        if view.request.engine == "slurm":
            if view.job_id:
                job_ids.append(view.job_id)
        elif localruns.here(view) and localruns.alive(view) and view.attempt is not None:
            with contextlib.suppress(ProcessLookupError):  # just verified to be ours; the slot may KILL
                os.kill(view.attempt.pid, signal.SIGTERM)
        elif not localruns.started(view):
            run.record(RunState.CANCELLED, now, cause=Cause.CANCELLED.value, reason="before it started")
    if whole_arrays:
        job_ids = sorted({job_id.partition("_")[0] for job_id in job_ids})
    if job_ids:
        slurm.scancel(engine.runner(config), job_ids)
    return [read_view(run) for run in runs]
