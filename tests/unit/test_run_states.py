"""What one look at Slurm changes: the table, and the rules around it."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from hpcpools.runs.attempts import Attempt
from hpcpools.runs.request import Request, Resources
from hpcpools.runs.states import SLURM, Cause, RunState
from hpcpools.runs.view import Change, Sighting, View, decide

NOW = 10_000.0
REQUEST = Request(token="hp-" + "0" * 26, created=0.0, engine="slurm", resources=Resources())
RUNNING = View(REQUEST, RunState.RUNNING, NOW - 100, NOW - 100, 0, "7", (), detail="RUNNING")


def look(view: View, seen: Sighting) -> Change | None:
    """decide() with the default patience."""
    return decide(view, seen, lost_after=120, provisional_for=300)


def attempt(outcome: str = "", cause: Cause = Cause.NONE, started: float = 0.0) -> Attempt:
    """An attempt of submission 0, ended if it has an outcome."""
    ended = NOW - 1 if outcome else None
    return Attempt(
        1, 0, 0, Path(), "7", started=started, ended=ended, outcome=outcome, cause=cause, exit_code=1
    )


@pytest.mark.parametrize(
    ("word", "state", "cause"),
    [
        ("CANCELLED", RunState.CANCELLED, Cause.CANCELLED),
        ("TIMEOUT", RunState.TIMEOUT, Cause.TIME_LIMIT),
        ("DEADLINE", RunState.TIMEOUT, Cause.TIME_LIMIT),
        ("OUT_OF_MEMORY", RunState.OUT_OF_MEMORY, Cause.OUT_OF_MEMORY),
        ("REVOKED", RunState.CANCELLED, Cause.CANCELLED),
    ],
)
def test_final_words_end_a_run(word: str, state: RunState, cause: Cause) -> None:
    """Slurm's word is kept beside ours."""
    change = look(RUNNING, Sighting(NOW, word, listed=True))
    assert change is not None
    assert (change.state, change.cause, change.detail) == (state, cause, word)


@pytest.mark.parametrize("word", ["NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "LAUNCH_FAILED"])
def test_provisional_words_wait_for_what_follows(word: str) -> None:
    """REL-14: while squeue lists the job, or for five minutes after, it may be requeued."""
    assert look(RUNNING, Sighting(NOW, word, listed=True)) is None
    assert look(RUNNING, Sighting(NOW, word, absent_since=NOW - 200)) is None
    change = look(RUNNING, Sighting(NOW, word, absent_since=NOW - 301))
    assert change is not None
    assert change.state is RunState.FAILED
    assert change.cause.retryable


@pytest.mark.parametrize(
    "word", sorted(word for word, reading in SLURM.items() if not reading.state.is_final)
)
def test_words_of_live_jobs_never_end_a_run(word: str) -> None:
    """submitit reads CONFIGURING, SUSPENDED and others as finished; we do not."""
    change = look(RUNNING, Sighting(NOW, word, listed=True))
    assert change is None or not change.state.is_final


@pytest.mark.parametrize("word", ["", "SOMETHING_NEW", "running"])
def test_unknown_words_change_nothing(word: str) -> None:
    """Never guess success or failure."""
    assert look(RUNNING, Sighting(NOW, word)) is None


def test_every_base_state_and_flag_is_in_the_table() -> None:
    """12 base states and 17 flags of squeue(1)."""
    assert len(SLURM) == 29


def test_the_end_marker_beats_slurm() -> None:
    """Whatever Slurm says of the exit, or if it says nothing, the node's own marker is the truth."""
    done = replace(RUNNING, attempts=(attempt("completed"),))
    for seen in (Sighting(NOW, "FAILED"), Sighting(NOW), Sighting(NOW, "NODE_FAIL", listed=True)):
        change = look(done, seen)
        assert change is not None
        assert change.state is RunState.COMPLETED
    failed = replace(RUNNING, attempts=(attempt("failed", Cause.USER_ERROR),))
    change = look(failed, Sighting(NOW, "COMPLETED"))
    assert change is not None
    assert (change.state, change.exit_code) == (RunState.FAILED, 1)


def test_completed_without_a_marker_is_no_success() -> None:
    """The marker may be late on NFS; after the grace it is a failure, not a success."""
    for word in ("COMPLETED", "FAILED"):
        assert look(RUNNING, Sighting(NOW, word, ended=NOW - 10, listed=True)) is None
        for ended in (NOW - 61, NOW + 3600):  # or a controller whose clock is ahead
            change = look(RUNNING, Sighting(NOW, word, ended=ended, listed=True))
            assert change is not None
            assert change.state is RunState.FAILED


def test_out_of_memory_is_read_from_the_step() -> None:
    """Slurm calls the job FAILED 1:0 and only the step OUT_OF_MEMORY."""
    seen = Sighting(NOW, "FAILED", exit_code=1, ended=NOW - 100, step_out_of_memory=True)
    change = look(RUNNING, seen)
    assert change is not None
    assert change.state is RunState.OUT_OF_MEMORY


def test_a_vanished_job_is_lost_only_after_patience() -> None:
    """REL-13: absent everywhere for 120 s."""
    assert look(RUNNING, Sighting(NOW, absent_since=NOW - 100)) is None
    change = look(RUNNING, Sighting(NOW, absent_since=NOW - 121))
    assert change is not None
    assert change.state is RunState.LOST


def test_a_cancelled_run_that_vanished_is_cancelled() -> None:
    """Someone asked for it, and Slurm knows it no more."""
    change = look(replace(RUNNING, cancel_asked=True), Sighting(NOW, absent_since=NOW - 121))
    assert change is not None
    assert change.state is RunState.CANCELLED


def test_a_cancelled_run_that_ran_nothing_is_cancelled() -> None:
    """Its node found the wish and left with 0: Slurm's COMPLETED is no success."""
    change = look(replace(RUNNING, cancel_asked=True), Sighting(NOW, "COMPLETED", listed=True))
    assert change is not None
    assert change.state is RunState.CANCELLED


def test_a_killed_training_waits_for_slurm_s_word() -> None:
    """The node saw its child die of a signal; Slurm tells preemption, limit or plain failure."""
    killed = replace(RUNNING, attempts=(attempt("killed", Cause.KILLED),))
    for word, state, cause in (
        ("FAILED", RunState.FAILED, Cause.KILLED),
        ("TIMEOUT", RunState.TIMEOUT, Cause.TIME_LIMIT),
        ("CANCELLED", RunState.CANCELLED, Cause.CANCELLED),
    ):
        change = look(killed, Sighting(NOW, word, listed=True))
        assert change is not None
        assert (change.state, change.cause) == (state, cause)


def test_a_requeued_run_is_pending_again() -> None:
    """PENDING after a start means a requeue, unless the answer is older than the start."""
    started = replace(RUNNING, attempts=(attempt(started=NOW - 60),))
    change = look(started, Sighting(NOW, "PENDING", "BeginTime", listed=True))
    assert change is not None
    assert change.state is RunState.PENDING
    overtaken = replace(RUNNING, attempts=(attempt(started=NOW - 1),))
    assert look(overtaken, Sighting(NOW, "PENDING", listed=True)) is None


def test_stopped_early_is_resumable() -> None:
    """A training that heeded the warning and left is a TIMEOUT that may be tried again."""
    stopped = replace(RUNNING, attempts=(attempt("stopped", Cause.STOPPED),))
    change = look(stopped, Sighting(NOW, "FAILED", exit_code=75))
    assert change is not None
    assert change.state is RunState.TIMEOUT
    assert change.cause.retryable


def test_user_errors_are_not_retryable() -> None:
    """Only what may well succeed next time is."""
    assert not Cause.USER_ERROR.retryable
    assert not Cause.OUT_OF_MEMORY.retryable
    assert Cause.NODE_FAILURE.retryable
