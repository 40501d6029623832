"""The end of a run is concluded once, whoever looks."""

from __future__ import annotations

import time
from pathlib import Path

from hpcpools.runs import directory, token
from hpcpools.runs.request import Request, Resources
from hpcpools.runs.states import Cause, RunState
from hpcpools.runs.view import Change, read_view
from hpcpools.training import restart


def test_a_slow_reader_does_not_restart_twice(tmp_path: Path) -> None:
    """It saw the end of submission 0; by the time it writes, submission 1 is on its way."""
    now = time.time()
    run = directory.create(tmp_path, Request(token.new_token(now), now, "slurm", Resources(), command=("x",)))
    run.next_submission(now)
    run.submitted(0, "7", "", now)
    run.record(RunState.PENDING, now, job_id="7")
    seen = read_view(run)
    change = Change(RunState.FAILED, "NODE_FAIL", Cause.NODE_FAILURE)
    restart.conclude(run, seen, change, now, 60)
    due = read_view(run)
    assert (due.state, due.restart_kind, due.not_before) == (RunState.PENDING, "node_failure", now + 60)
    assert run.next_submission(now, after=due.submission, kind=due.restart_kind) == 1
    assert run.next_submission(now, after=due.submission, kind=due.restart_kind) is None
    run.submitted(1, "8", "", now)
    run.record(RunState.PENDING, now, job_id="8")
    restart.conclude(run, seen, change, now, 60)
    view = read_view(run)
    assert (view.state, view.restart_kind, view.job_id) == (RunState.PENDING, "", "8")
    assert directory.live_tokens(tmp_path) == [run.token]


def test_the_budget_ends_it(tmp_path: Path) -> None:
    """After the last restart the end is final, with the reason; the breaker is marked."""
    now = time.time()
    budgets = {"user_error": 3, "node_failure": 0}
    asked = Request(token.new_token(now), now, "slurm", Resources(), command=("x",), restarts=budgets)
    run = directory.create(tmp_path, asked)
    run.next_submission(now)
    restart.conclude(run, read_view(run), Change(RunState.FAILED, "NODE_FAIL", Cause.NODE_FAILURE), now, 60)
    view = read_view(run)
    assert (view.state, view.cause, view.breaker) == (RunState.FAILED, Cause.NODE_FAILURE, False)
    assert directory.ended_tokens(tmp_path) == [run.token]
