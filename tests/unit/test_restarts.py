"""Restart by cause, gated by progress: who is started again, and who is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcpools.runs import restarts
from hpcpools.runs.attempts import Attempt
from hpcpools.runs.checkpoints import Checkpoint
from hpcpools.runs.restarts import Decision
from hpcpools.runs.states import Cause, RunState


def decide(cause: Cause, *, strikes: int = 0, state: RunState = RunState.FAILED, **more: object) -> Decision:
    """decide() with the default budgets."""
    options = {"budgets": {}, "used": {}, "cancelled": False, **more}
    return restarts.decide(state, cause, strikes=strikes, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (Cause.PREEMPTED, "preemption"),
        (Cause.TIME_LIMIT, "time_limit"),
        (Cause.STOPPED, "time_limit"),
        (Cause.NODE_FAILURE, "node_failure"),
        (Cause.BAD_NODE, "bad_node"),
        (Cause.LAUNCH_FAILURE, "launch_failure"),
    ],
)
def test_what_the_user_did_not_cause_is_started_again(cause: Cause, kind: str) -> None:
    """Each charged to its own budget, up to that budget."""
    found = decide(cause)
    assert (found.again, found.kind) == (True, kind)
    spent = decide(cause, used={kind: restarts.DEFAULTS[kind]})
    assert not spent.again
    assert "used up" in spent.reason
    assert decide(cause, used={"user_error": 99}).again


@pytest.mark.parametrize("cause", [Cause.USER_ERROR, Cause.KILLED, Cause.OUT_OF_MEMORY])
def test_the_user_s_own_failures_are_not(cause: Cause) -> None:
    """By default; a budget allows it."""
    assert decide(cause) == Decision(False, restarts.KINDS[cause])
    assert decide(cause, budgets={restarts.KINDS[cause]: 1}).again


def test_completed_cancelled_and_refused_never() -> None:
    """Whatever the budget."""
    assert not decide(Cause.NONE, state=RunState.COMPLETED).again
    assert not decide(Cause.PREEMPTED, cancelled=True).again
    assert not decide(Cause.BAD_SUBMISSION).again
    assert not decide(Cause.LOST, state=RunState.LOST).again
    assert not decide(Cause.CANCELLED, state=RunState.CANCELLED).again


def test_no_progress_opens_the_breaker() -> None:
    """A whole time slot without a checkpoint at once; interruptions from outside after one more."""
    found = decide(Cause.TIME_LIMIT, strikes=1)
    assert (found.again, found.breaker) == (False, True)
    assert "no newer checkpoint" in found.reason
    assert decide(Cause.PREEMPTED, strikes=1).again
    assert decide(Cause.PREEMPTED, strikes=2).breaker
    assert decide(Cause.BAD_NODE, strikes=9).again
    assert decide(Cause.USER_ERROR, strikes=1, budgets={"user_error": 5}).breaker


def attempt(started: float, submission: int = 0, **facts: object) -> Attempt:
    """An attempt that began then."""
    return Attempt(1, submission, 0, Path(), started=started, **facts)  # type: ignore[arg-type]


def test_strikes_are_attempts_without_a_checkpoint_of_their_own() -> None:
    """A checkpoint of an earlier attempt is no progress of this one; unfit nodes do not count."""
    saved = [Checkpoint(Path(), 1, at, 1, {}, {}) for at in (15.0, 25.0)]
    assert restarts.strikes([attempt(10), attempt(20)], saved) == 0
    assert restarts.strikes([attempt(10), attempt(20), attempt(30)], saved) == 1
    assert restarts.strikes([attempt(10), attempt(30), attempt(40)], saved) == 2
    assert restarts.strikes([attempt(20), attempt(30, cause=Cause.BAD_NODE)], saved) == 0
    assert restarts.strikes([], saved) == 0


def test_what_was_used() -> None:
    """New submissions by their kind, requeues of our own as time limit, Slurm's as preemption."""
    submissions: list[dict[str, object]] = [{"at": 1}, {"at": 2, "kind": "node_failure"}]
    attempts = [attempt(1), attempt(2, 1, requeued="time_limit"), attempt(3, 1), attempt(4, 1)]
    assert restarts.used(submissions, attempts) == {"node_failure": 1, "time_limit": 1, "preemption": 1}


def test_delays_grow_for_what_may_be_broken() -> None:
    """60 s, 120 s, 240 s … at most an hour; none for a preempted or timed-out run."""
    assert [restarts.delay("node_failure", spent, 60) for spent in (0, 1, 2, 20)] == [60, 120, 240, 3600]
    assert restarts.delay("time_limit", 5, 60) == 0


def test_the_warning_comes_early_enough_for_a_checkpoint() -> None:
    """Twice the p95 and 30 s; at least what is configured, at most half of the wall time."""
    assert restarts.signal_lead(90, 600, []) == 90
    assert restarts.signal_lead(90, 600, [1.0] * 20) == 90
    assert restarts.signal_lead(90, 600, [10.0] * 99 + [500.0]) == 90
    assert restarts.signal_lead(90, 600, [200.0] * 20) == 430
    assert restarts.signal_lead(90, 10, [200.0] * 20) == 300


def test_a_smaller_problem_after_out_of_memory() -> None:
    """halve:NAME:MINIMUM, down to the minimum."""
    assert restarts.smaller({"batch": 32, "lr": 1}, "halve:batch:8") == {"batch": 16, "lr": 1}
    assert restarts.smaller({"batch": 15}, "halve:batch:8") is None
    assert restarts.smaller({"batch": "x"}, "halve:batch:1") is None
    assert restarts.smaller({}, "halve:batch:1") is None
    assert restarts.smaller({"batch": 8}, "double:batch:1") is None
