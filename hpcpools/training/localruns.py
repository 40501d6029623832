"""Local runs: is its process alive, and how did it end when it left no word. Pure but for reading /proc."""

from __future__ import annotations

import socket
import time

from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.states import Cause, RunState
from hpcpools.runs.view import Change, View, last_line, read_view
from hpcpools.training import nodeenv


def here(view: View) -> bool:
    """True if this machine can judge the run: it was submitted to this machine's slot."""
    return view.request.engine == "local" and view.request.host == socket.gethostname()


def started(view: View) -> bool:
    """True if a process claimed the newest submission; an older one's attempts are history."""
    return view.attempt is not None and view.attempt.submission == view.submission


def alive(view: View) -> bool:
    """True if the process that claimed the newest attempt is still that process, on this boot."""
    attempt = view.attempt
    return (
        attempt is not None
        and started(view)
        and attempt.boot == nodeenv.boot_id()
        and attempt.pid_start != 0
        and nodeenv.process_start(attempt.pid) == attempt.pid_start
    )


def ending(view: View, now: float) -> Change:
    """How a run ended whose process is gone: the marker's word, else what clock and cancel mark tell."""
    attempt = view.attempt if started(view) else None
    reason = last_line(attempt.error) if attempt else ""
    if view.state.is_final:
        state, cause = view.state, view.cause
    elif view.cancel_asked:
        state, cause = RunState.CANCELLED, Cause.CANCELLED
    elif attempt is None:
        state, cause = RunState.FAILED, Cause.LAUNCH_FAILURE
    elif now - attempt.started >= view.request.resources.minutes * 60 - 2:
        state, cause = RunState.TIMEOUT, Cause.TIME_LIMIT
    elif attempt.outcome == "stopped":
        state, cause = RunState.TIMEOUT, Cause.STOPPED
    else:
        state, cause = RunState.FAILED, Cause.KILLED
    return Change(state, "", cause, attempt.exit_code if attempt else None, reason)


def close(run: RunDirectory) -> View:
    """Write the end of a run whose process is gone into its events; the view after it."""
    view = read_view(run)  # read after the process was seen gone: its last word is in there
    now = time.time()
    change = ending(view, now)
    at = (view.attempt.ended if view.attempt and started(view) else None) or now
    run.record(change.state, at, cause=change.cause.value, exit_code=change.exit_code, reason=change.reason)
    return read_view(run)
