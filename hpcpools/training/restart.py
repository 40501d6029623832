"""Starting a run again: the decision is recorded when it ends, the submission is upkeep's.

Between the two the run is PENDING and says what it waits for; only one process can take the next
submission number, so it is submitted once.
"""

from __future__ import annotations

import time
from typing import Any

from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError, SlurmRefusedError, SubmissionUnknownError
from hpcpools.eventlog import event, log
from hpcpools.runs import checkpoints, directory, restarts
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.states import Cause, RunState
from hpcpools.runs.view import Change, View, read_view


def conclude(run: RunDirectory, view: View, change: Change, at: float, first_delay: float) -> None:
    """Record the end of a run, or that it will be started again. Local runs are not started again."""
    if run.last_submission() != view.submission:
        return  # somebody was quicker, and it has been submitted again since
    facts: dict[str, Any] = {
        "of": view.submission,
        "detail": change.detail,
        "cause": change.cause.value,
        "exit_code": change.exit_code,
        "reason": change.reason,
    }
    if not change.state.is_final or view.request.engine != "slurm":
        run.record(change.state, at, **facts)
        return
    submissions = [run.submission(number) for number in range(view.submission + 1)]
    used = restarts.used(submissions, view.attempts)
    decision = restarts.decide(
        change.state,
        change.cause,
        budgets=view.request.restarts,
        used=used,
        strikes=restarts.strikes(view.attempts, checkpoints.complete(run.checkpoints)),
        cancelled=view.cancel_asked,
    )
    facts["reason"] = "; ".join(text for text in (change.reason, decision.reason) if text)
    if not decision.again:
        run.record(change.state, at, **facts, breaker=decision.breaker or None)
        return
    wait = restarts.delay(decision.kind, used[decision.kind], first_delay)
    run.record(RunState.PENDING, at, **facts, restart=decision.kind, not_before=at + wait)
    log.info(event("restart-due", **run.ids(), kind=decision.kind, wait=wait))


def submit_due(config: Config, now: float) -> list[str]:
    """Submit the runs whose restart is due; their tokens."""
    done = []
    for token in directory.live_tokens(config.root):
        run = RunDirectory(config.root, token)
        try:
            view = read_view(run)
            if view.restart_kind and now >= view.not_before and _resubmit(config, run, view):
                done.append(token)
        except HpcpoolsError as error:
            log.warning(event("restart-fail", **run.ids(), error=error))
    return done


def _resubmit(config: Config, run: RunDirectory, view: View) -> bool:
    from hpcpools.training import submit  # not for those who only look

    if view.cancel_asked:
        run.record(RunState.CANCELLED, time.time(), cause=Cause.CANCELLED.value)
        return False
    facts = {"kind": view.restart_kind, **_changes(run, view)}
    asked = view.request.resources
    facts |= submit.avoided(config, run.token, asked)
    lead = restarts.signal_lead(asked.signal_lead, asked.minutes, checkpoints.write_seconds(run.checkpoints))
    if lead > asked.signal_lead:
        facts["signal_lead"] = lead
    number = run.next_submission(time.time(), after=view.submission, **facts)
    if number is None:
        return False
    try:
        job_id = submit.send(config, run, view.request, number, lambda _text: None)
    except SubmissionUnknownError:
        raise  # the run is SUBMITTING and unsettled: the scan adopts or repeats it
    except SlurmRefusedError as error:
        run.record(
            RunState.FAILED, time.time(), cause=Cause.BAD_SUBMISSION.value, reason=f"restart: {error.message}"
        )
        raise
    except HpcpoolsError:  # nothing was sent: the restart stays due, under the next number
        again = {"restart": view.restart_kind, "not_before": time.time() + 60, "cause": view.cause.value}
        run.record(RunState.PENDING, time.time(), reason="Slurm did not take the restart yet", **again)
        raise
    run.submitted(number, job_id, "", time.time())
    run.record(RunState.PENDING, time.time(), job_id=job_id, reason=view.reason)
    return True


def _changes(run: RunDirectory, view: View) -> dict[str, Any]:
    """What the next submission does differently: a smaller problem after running out of memory."""
    if view.restart_kind != "out_of_memory":
        previous = run.submission(view.submission).get("arguments")
        return {"arguments": previous} if previous else {}
    current = {**view.request.arguments, **(run.submission(view.submission).get("arguments") or {})}
    changed = restarts.smaller(current, view.request.on_oom)
    return {"arguments": changed} if changed else {}
