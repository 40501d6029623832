"""On the node: ask Slurm to start this job again when its time is over, and refuse a hopeless start.

The only Slurm command of a compute node: its own requeue.
"""

from __future__ import annotations

import signal
import sys

from hpcpools.errors import HpcpoolsError
from hpcpools.runs import checkpoints, restarts
from hpcpools.runs.attempts import Attempt, read_attempts
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Request
from hpcpools.runs.states import Cause
from hpcpools.slurm import submit
from hpcpools.slurm.command import Runner
from hpcpools.training import nodeenv
from hpcpools.training.ending import Ending

SLACK = 90.0  # seconds: Slurm may send the warning up to a minute early (sbatch(1), --signal)


def wanted(run: RunDirectory, request: Request, ending: Ending, began: float, now: float) -> str:
    """The budget to charge if we shall be requeued: warned by USR2 or one of our nodes lost, progress made,
    budget left; else "".

    USR2 comes before the time limit, and before a preemption where the site sends it. TERM alone may be
    somebody's scancel: never undone from here; after a preemption Slurm requeues, or upkeep does.
    """
    warned = ending.outcome == "stopped" and ending.signal == signal.SIGUSR2
    lost = ending.cause is Cause.NODE_FAILURE
    if request.engine != "slurm" or not (warned or lost) or run.cancelled():
        return ""
    limit = request.resources.minutes * 60.0
    over = now - began >= limit - request.resources.signal_lead - SLACK
    cause = Cause.NODE_FAILURE if lost else Cause.TIME_LIMIT if over else Cause.PREEMPTED
    attempts = read_attempts(run)
    decision = restarts.decide(
        state=attempts[-1].state,
        cause=cause,
        budgets=request.restarts,
        used=_used(run, attempts),
        strikes=restarts.strikes(attempts, checkpoints.complete(run.checkpoints)),
        cancelled=False,
    )
    return decision.kind if decision.again else ""


def ask(job_id: str) -> None:
    """scontrol requeue; if it fails the job ends with exit 75 and upkeep starts it again."""
    try:
        submit.requeue(Runner(nodeenv.child_environment()), job_id)
    except HpcpoolsError as error:
        print(f"hpcpools: not requeued from inside: {error}", file=sys.stderr)


def hopeless(run: RunDirectory, request: Request) -> Ending | None:
    """An ending for a start that Slurm repeats without progress, before the training begins; else None."""
    attempts = read_attempts(run)
    earlier = attempts[:-1]
    if not earlier or earlier[-1].submission != attempts[-1].submission or earlier[-1].requeued:
        return None
    strikes = restarts.strikes(earlier, checkpoints.complete(run.checkpoints))
    spent = _used(run, attempts)["preemption"]
    if strikes > restarts.allowed_strikes(request.restarts, "preemption"):
        reason = restarts.NO_PROGRESS.format(cause="requeue by Slurm")
    elif spent > restarts.budget_of(request.restarts, "preemption"):
        reason = f"its {spent - 1} restarts after preemption are used up"
    else:
        return None
    # Exit 0: Slurm must not requeue once more; our own marker says that it failed.
    return Ending("failed", 0, cause=Cause.NO_PROGRESS, error=reason)


def _used(run: RunDirectory, attempts: tuple[Attempt, ...]) -> dict[str, int]:
    submissions = [run.submission(number) for number in range(run.last_submission() + 1)]
    return restarts.used(submissions, attempts)
