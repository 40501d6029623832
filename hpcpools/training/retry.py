"""Submit ended runs once more, by hand: the same runs, the same frozen code, a new submission of each.

Runs of one sweep go as one array. A single run is put down as due, and sent like any restart: politely, and
again by upkeep if Slurm does not answer now. Refuses runs that succeeded or are still live.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence

from hpcpools.config import Config
from hpcpools.errors import RefusedError
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.states import RunState
from hpcpools.runs.sweeps import SweepDirectory
from hpcpools.runs.view import View, read_view
from hpcpools.training import restart, sweep

KIND = "retry"  # no budget is charged: a person asked


def check(view: View) -> None:
    """Raise RefusedError unless the run ended without success."""
    if not view.state.is_final:
        raise RefusedError(f"{view.token} is {view.state.value}", hint="only ended runs are tried again")
    if view.state is RunState.COMPLETED:
        raise RefusedError(f"{view.token} completed", hint="`hpcpools reproduce` runs it once more")


def retry(
    config: Config, views: Sequence[View], note: Callable[[str], None] = lambda _text: None
) -> list[str]:
    """Submit them; their tokens. A run that another process has taken meanwhile is left to that one.

    Raises RefusedError before anything is changed, and what a sweep's submission raises.
    """
    for view in views:
        check(view)
    sweeps: dict[str, list[View]] = defaultdict(list)
    done = []
    for view in views:
        if view.request.sweep:
            sweeps[view.request.sweep].append(view)
            continue
        run = RunDirectory(config.root, view.token)
        if view.request.engine == "local":
            if sweep.take_again(run, view) is not None:
                run.revive(time.time(), reason="waits for the local slot")
                done.append(view.token)
        elif not read_view(run).restart_kind:
            run.revive(time.time(), restart=KIND, not_before=time.time(), reason="tried again by the user")
            done.append(view.token)
    for name, members in sweeps.items():
        done += sweep.retry(config, SweepDirectory(config.root, name), members, note)
    if any(view.request.engine == "slurm" and not view.request.sweep for view in views):
        restart.submit_due(config, time.time())
    return done
