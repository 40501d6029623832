"""Whether a run that ended is started again: a budget for each kind of end, gated by progress. Pure.

A restart that would only repeat the same work opens the breaker: the run ends, and says why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import msgspec

from hpcpools.runs.attempts import Attempt
from hpcpools.runs.checkpoints import Checkpoint
from hpcpools.runs.states import Cause, RunState
from hpcpools.schema import Restarts

# Which budget a cause is charged to. What is not here is never started again: least of all a LOST run,
# whose job may still work on a node that Slurm has forgotten.
KINDS = {
    Cause.TIME_LIMIT: "time_limit",
    Cause.STOPPED: "time_limit",
    Cause.PREEMPTED: "preemption",
    Cause.NODE_FAILURE: "node_failure",
    Cause.BAD_NODE: "bad_node",
    Cause.LAUNCH_FAILURE: "launch_failure",
    Cause.OUT_OF_MEMORY: "out_of_memory",
    Cause.USER_ERROR: "user_error",
    Cause.KILLED: "user_error",
}
# The budgets of a run whose request names none: the config's own defaults, written once, in the schema.
DEFAULTS = {
    kind: number for kind, number in msgspec.structs.asdict(Restarts()).items() if kind != "first_delay"
}
# The user's code did not run, or a smaller problem is tried: no newer checkpoint can be expected.
UNGATED = {"bad_node", "launch_failure", "out_of_memory"}
# Interrupted from outside, perhaps before the first checkpoint was due: some patience.
PATIENT = {"preemption", "node_failure"}


class Decision(msgspec.Struct, frozen=True):
    """``again``: start it once more. ``breaker``: it is not, because it made no progress."""

    again: bool
    kind: str = ""
    reason: str = ""
    breaker: bool = False


def decide(
    state: RunState,
    cause: Cause,
    *,
    budgets: Mapping[str, int],
    used: Mapping[str, int],
    strikes: int,
    cancelled: bool,
) -> Decision:
    """What follows the end of a run. ``strikes``: newest attempts in a row without a new checkpoint."""
    kind = KINDS.get(cause, "")
    if state is RunState.COMPLETED or cancelled or not kind:
        return Decision(False)
    budget, spent = budget_of(budgets, kind), used.get(kind, 0)
    if spent >= budget:
        reason = f"its {budget} restarts after {cause.value} are used up" if budget else ""
        return Decision(False, kind, reason)
    if kind not in UNGATED and strikes > allowed_strikes(budgets, kind):
        return Decision(False, kind, NO_PROGRESS.format(cause=cause.value), breaker=True)
    return Decision(True, kind, f"restart {spent + 1} of {budget} after {cause.value}")


NO_PROGRESS = "breaker open: no newer checkpoint since its last start; no restart after {cause}"


def budget_of(budgets: Mapping[str, int], kind: str) -> int:
    """The run's budget, else the default."""
    return budgets.get(kind, DEFAULTS[kind])


def allowed_strikes(budgets: Mapping[str, int], kind: str) -> int:
    """Attempts in a row that may end without a newer checkpoint."""
    return budget_of(budgets, "without_progress") if kind in PATIENT else 0


def strikes(attempts: Sequence[Attempt], found: Sequence[Checkpoint]) -> int:
    """Newest attempts in a row that wrote no checkpoint; those that never ran user code do not count."""
    count = 0
    until = float("inf")
    for attempt in reversed(attempts):
        if attempt.cause in (Cause.BAD_NODE, Cause.LAUNCH_FAILURE):
            continue
        if any(attempt.started <= checkpoint.at < until for checkpoint in found):
            break
        count += 1
        until = attempt.started
    return count


def used(submissions: Sequence[Mapping[str, Any]], attempts: Sequence[Attempt]) -> Counter[str]:
    """Restarts so far, by kind: our new submissions, and the requeues we asked for from inside a job.

    Requeues by Slurm itself (preempted, lost node) are charged to preemption.
    """
    spent = Counter(str(facts["kind"]) for facts in submissions if facts.get("kind"))
    for before, attempt in pairwise(attempts):
        if attempt.submission == before.submission:
            spent[before.requeued or "preemption"] += 1
    return spent


def delay(kind: str, spent: int, first: float) -> float:
    """Seconds to wait before the next start: none for what only the clock or a neighbour caused."""
    if kind in ("time_limit", "preemption", "out_of_memory"):
        return 0.0
    return min(first * 2.0 ** min(spent, 10), 3600.0)


def signal_lead(configured: int, minutes: int, written: Sequence[float]) -> int:
    """Seconds of warning for the next start: twice the p95 of the measured checkpoint times and 30 s.

    Never less than configured, never more than half of the wall time. ``written`` in seconds.
    """
    if not written:
        return configured
    return max(configured, min(int(2 * p95(written) + 30), minutes * 30))


def p95(values: Sequence[float]) -> float:
    """The 95th percentile of at least one value."""
    return sorted(values)[min(len(values) - 1, int(0.95 * len(values)))]


def smaller(arguments: Mapping[str, Any], rule: str) -> dict[str, Any] | None:
    """The arguments after one step of ``halve:NAME:MINIMUM``; None if it cannot get smaller."""
    word, _, rest = rule.partition(":")
    name, _, minimum = rest.partition(":")
    value = arguments.get(name)
    if word != "halve" or isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    half = value // 2 if isinstance(value, int) else value / 2
    if half < float(minimum or 1):
        return None
    return {**arguments, name: half}
