"""What is known of a run right now, and the decision what one look at Slurm changes.

Pure functions of files and observations: no clock, no command. Unknown stays unknown.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from hpcpools.runs.attempts import Attempt, read_attempts
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Request
from hpcpools.runs.states import Cause, RunState, read_slurm

# How long after a job's end its end marker may be invisible here: the attribute cache of NFS (nfs(5)).
MARKER_GRACE = 60.0
# A squeue answer this old (seconds) may have been overtaken by the node's own start record.
OVERTAKEN = 5.0
_CAUSES = frozenset(cause.value for cause in Cause)


class View(Struct, frozen=True):
    """A run as its files tell. ``since``: start of the state; ``as_of``: last time it was confirmed."""

    request: Request
    state: RunState
    since: float
    as_of: float
    submission: int
    job_id: str
    attempts: tuple[Attempt, ...]
    detail: str = ""
    cause: Cause = Cause.NONE
    exit_code: int | None = None
    reason: str = ""
    cancel_asked: bool = False
    restart_kind: str = ""  # it ended, and upkeep will submit it again
    not_before: float = 0.0  # when
    breaker: bool = False  # it ended, and was not started again because it made no progress

    @property
    def token(self) -> str:
        """The run's name."""
        return self.request.token

    @property
    def attempt(self) -> Attempt | None:
        """The newest start, if any."""
        return self.attempts[-1] if self.attempts else None


class Sighting(Struct, frozen=True):
    """One look at Slurm for one run: its word, or its absence from every record that answered."""

    at: float
    word: str = ""
    reason: str = ""
    exit_code: int | None = None
    signal: int | None = None
    ended: float | None = None  # when Slurm says it ended
    listed: bool = False  # squeue still holds the job: a provisional end may become a requeue
    absent_since: float | None = None
    step_out_of_memory: bool = False


class Change(Struct, frozen=True):
    """A new state with its reasons."""

    state: RunState
    detail: str = ""
    cause: Cause = Cause.NONE
    exit_code: int | None = None
    reason: str = ""


def read_view(run: RunDirectory) -> View:
    """Fold the files of a run: its events, then what the node has written since (the node is quicker)."""
    request = run.request()
    number = run.last_submission()
    job, owner = run.job(number), run.owner(number)
    view = View(
        request=request,
        state=RunState.SUBMITTING,
        since=request.created,
        as_of=request.created,
        submission=number,
        job_id=str((owner or job or {}).get("job_id", "")),
        attempts=read_attempts(run),
        cancel_asked=run.cancelled(),
    )
    for event in run.events():
        view = _apply_event(view, event)
    return _apply_node(view)


def _apply_event(view: View, event: dict[str, Any]) -> View:
    try:
        state, at = RunState(event["state"]), float(event["at"])
    except (KeyError, ValueError, TypeError):
        return view
    if event.get("of", view.submission) != view.submission:
        return view  # the end of an earlier submission; a slow reader may even write it late
    return replace(
        view,
        state=state,
        since=view.since if state is view.state else at,
        as_of=at,
        detail=str(event.get("detail", "")),
        cause=Cause(event["cause"]) if event.get("cause") in _CAUSES else Cause.NONE,
        exit_code=event.get("exit_code"),
        reason=str(event.get("reason", "")),
        restart_kind=str(event.get("restart", "")),
        not_before=float(event.get("not_before", 0.0)),
        breaker=bool(event.get("breaker", False)),
    )


def _apply_node(view: View) -> View:
    """The newest attempt's files, if they are of the newest submission and the events are not final."""
    attempt = view.attempt
    if view.state.is_final or view.restart_kind or attempt is None or attempt.submission != view.submission:
        return view
    if attempt.ended is not None and attempt.state.is_final:
        return replace(
            view,
            state=attempt.state,
            since=attempt.ended,
            as_of=attempt.ended,
            cause=attempt.cause,
            exit_code=attempt.exit_code,
            detail="",  # Slurm's word was about an earlier moment
            reason=last_line(attempt.error),
        )
    if attempt.ended is None and attempt.started >= view.since and view.state is not RunState.RUNNING:
        return replace(view, state=RunState.RUNNING, since=attempt.started, as_of=attempt.started, reason="")
    return view


def decide(view: View, seen: Sighting, *, lost_after: float, provisional_for: float) -> Change | None:
    """What ``seen`` changes about ``view``; None if nothing (also when it tells nothing we understand)."""
    attempt = view.attempt
    marked = attempt is not None and attempt.submission == view.submission and attempt.ended is not None
    if marked and attempt is not None and attempt.state.is_final:  # the end marker beats Slurm's records
        return Change(attempt.state, seen.word, attempt.cause, attempt.exit_code, last_line(attempt.error))
    if not seen.word:
        return _decide_absent(view, seen, lost_after)
    reading = read_slurm(seen.word)
    if reading is None:
        return None
    if not reading.state.is_final:
        same = reading.state is view.state and seen.reason == view.reason and seen.word == view.detail
        # The node's files are newer than this look: it has started since, and was not requeued.
        overtaken = (
            reading.state is RunState.PENDING
            and attempt is not None
            and attempt.submission == view.submission
            and attempt.ended is None
            and (seen.word == "CONFIGURING" or attempt.started > seen.at - OVERTAKEN)
        )
        return None if same or overtaken else Change(reading.state, seen.word, reason=seen.reason)
    if reading.provisional and (seen.listed or seen.at - (seen.absent_since or seen.at) < provisional_for):
        return None
    stopped = marked and attempt is not None and attempt.outcome == "stopped"
    killed = marked and attempt is not None and attempt.outcome == "killed"
    state, cause = reading.state, reading.cause
    if view.cancel_asked:
        state, cause = RunState.CANCELLED, Cause.CANCELLED
    elif not marked and state in (RunState.COMPLETED, RunState.FAILED) and _marker_may_come(seen, lost_after):
        return None
    elif stopped and state in (RunState.FAILED, RunState.COMPLETED) and not reading.provisional:
        state, cause = RunState.TIMEOUT, Cause.STOPPED
    elif seen.step_out_of_memory:
        state, cause = RunState.OUT_OF_MEMORY, Cause.OUT_OF_MEMORY
    elif state is RunState.COMPLETED:
        state, cause = RunState.FAILED, Cause.LOST
    elif state is RunState.FAILED and cause is Cause.USER_ERROR and (killed or seen.signal):
        cause = Cause.KILLED
    elif state is RunState.FAILED and cause is Cause.USER_ERROR and attempt is None:
        cause = Cause.LAUNCH_FAILURE
    return Change(state, seen.word, cause, seen.exit_code, seen.reason)


def _marker_may_come(seen: Sighting, lost_after: float) -> bool:
    """The node writes the marker before the job ends; the shared file system may show it later.

    Nobody waits longer for a marker than for a run that Slurm knows no more. An end far in the future tells
    of a controller whose clock is ahead, and of no time to wait.
    """
    ended = seen.ended or seen.absent_since or seen.at
    return abs(seen.at - ended) < min(MARKER_GRACE, lost_after)


def _decide_absent(view: View, seen: Sighting, lost_after: float) -> Change | None:
    """Slurm answered, and no record of it holds the job."""
    if seen.absent_since is None or seen.at - seen.absent_since < lost_after:
        return None
    if view.cancel_asked:
        return Change(RunState.CANCELLED, cause=Cause.CANCELLED)
    if view.attempt is not None and view.attempt.outcome == "stopped":
        return Change(RunState.TIMEOUT, cause=Cause.STOPPED)
    if view.attempt is not None and view.attempt.outcome == "killed":
        return Change(RunState.FAILED, cause=Cause.KILLED, exit_code=view.attempt.exit_code)
    return Change(RunState.LOST, cause=Cause.LOST, reason="no record in Slurm and no end marker")


def last_line(error: str) -> str:
    """The last line of a traceback, which names the exception; "" for no text."""
    lines = [line for line in error.strip().splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else ""
