"""Why a run is in its state, and what to do: pure decisions from facts that were looked up before.

Refuses to ask anything itself; ``findings.py`` gathers the facts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hpcpools import durations
from hpcpools.explanation import Explanation
from hpcpools.runs.metrics import Progress
from hpcpools.runs.states import Cause, RunState
from hpcpools.runs.view import View
from hpcpools.slurm import reasons, states
from hpcpools.slurm.partition import Line, Standing
from hpcpools.textsafe import one_line

SILENT = 900.0  # seconds without a step after which a training may hang
_IN_SERVICE = ("idle", "mixed", "allocated", "completing", "planned", "reserved")


@dataclass(frozen=True)
class Facts:
    """What is known of a run.

    ``running`` and ``gpus``: our own trainings that hold nodes, and theirs; ``ahead``: how many local
    trainings come first; ``slot_alive``: whether the local slot serves at all.
    """

    view: View
    now: float
    as_of: float | None = None
    error: str = ""
    expected: float | None = None
    standing: Standing | None = None
    line: Line | None = None
    progress: Progress | None = None
    retryable: bool | None = None
    running: int = 0
    gpus: int = 0
    ahead: int = 0
    slot_alive: bool = True


def second_question(view: View) -> Literal["line", "nodes", ""]:
    """What else must be asked of Slurm to explain it: who is before it, how its nodes are, or nothing."""
    if view.state is not RunState.PENDING or view.request.engine != "slurm" or view.restart_kind:
        return ""
    reason = reasons.read(view.reason)
    if reason.code == "Priority":
        return "line"
    return "nodes" if reason.family in ("wait", "site", "never", "unknown") else ""


def explain(facts: Facts) -> Explanation:
    """The answer. Pure."""
    view = facts.view
    if view.state is RunState.SUBMITTING:
        return _submitting(facts)
    if view.state is RunState.PENDING:
        if view.restart_kind:
            return _restarting(facts)
        return _pending(facts) if view.request.engine == "slurm" else _local(facts)
    return _running(facts) if view.state is RunState.RUNNING else _ended(facts)


def _answer(
    facts: Facts, cause: str, action: str, *evidence: str, code: str = "", starts: float | None = None
) -> Explanation:
    view, token = facts.view, facts.view.token
    doubt = f"Slurm does not answer now: {facts.error}" if facts.error and not view.state.is_final else ""
    return Explanation(
        token,
        view.state.value,
        cause,
        action.replace("RUN", token).replace("JOBID", view.job_id or "JOBID"),
        code,
        tuple(one_line(text, 300) for text in (*evidence, doubt) if text),
        starts,
        max(view.as_of, facts.as_of or 0.0) if view.state is RunState.PENDING else view.as_of,
    )


def _submitting(facts: Facts) -> Explanation:
    view = facts.view
    age = f"submitted {durations.age(facts.now - view.request.created)} ago, no job id yet"
    if view.detail == "unsettled":
        return _answer(
            facts,
            "Slurm gave no clear answer when it was submitted; the job may or may not exist.",
            "Do not submit it again: upkeep looks the job up and settles it;"
            " `hpcpools upkeep scan_failed_jobs` does it now.",
            age,
            view.reason,
            code="Unsettled",
        )
    if view.detail == "interrupted":
        return _answer(
            facts,
            "Its submission was interrupted; if a job exists all the same, it will run nothing.",
            "Submit it again if you still want it.",
            age,
            code="Interrupted",
        )
    return _answer(
        facts,
        "It is being submitted, or the process that submitted it died.",
        "Wait; upkeep settles what stays like this (`hpcpools upkeep scan_failed_jobs` does it now).",
        age,
        code="Submitting",
    )


def _restarting(facts: Facts) -> Explanation:
    view = facts.view
    left = view.not_before - facts.now
    return _answer(
        facts,
        f"An attempt ended ({view.cause.value or view.restart_kind}), and the run will be submitted again.",
        "Wait: scan_failed_jobs submits it (`hpcpools up` keeps upkeep going); `hpcpools cancel RUN` if you"
        " do not want it.",
        f"due in {durations.age(left)}" if left > 0 else f"due {durations.age(-left)} ago",
        view.reason,
        code="Restart",
    )


def _pending(facts: Facts) -> Explanation:
    view = facts.view
    word = states.meaning(view.detail)
    if view.detail not in ("", "PENDING") and word.phase != "unknown":
        held = view.detail in ("REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")
        action = "Read its log, then `scontrol release JOBID`, or cancel it." if held else "Wait."
        return _answer(facts, f"Slurm: {word.summary}.", action, view.reason, code=view.detail)
    if not view.reason and view.detail == "":
        return _answer(
            facts,
            "Slurm has it; no look at the queue has told a reason yet.",
            "Ask again in a moment.",
            f"job {view.job_id}",
        )
    reason = reasons.read(view.reason)
    evidence = [f"job {view.job_id}, reason {view.reason or 'None'}"]
    if reason.nodes:
        evidence.append(f"not available: {reason.nodes}")
    if facts.line:
        evidence.append(f"{facts.line.before} of {facts.line.waiting - 1} other waiting jobs come first")
    cause, action = reason.cause, reason.action
    if facts.standing:
        evidence += _of_partition(facts)
        up, all_ = _in_service(facts.standing)
        if reason.family == "wait" and not up and all_:
            cause = "No node of the partition is in service."
            action = "Wait until the administrators bring nodes back, or submit to another partition."
        elif reason.family == "wait" and up < all_ and reason.code == "Resources":
            cause += f" {all_ - up} of {all_} nodes are out of service."
    if reason.family == "limit" or reason.code == "Resources":
        evidence.append(f"your own running trainings: {facts.running}, with {facts.gpus} GPUs")
    starts = facts.expected if facts.expected and facts.expected > facts.now else None
    return _answer(facts, cause, action, *evidence, code=reason.code, starts=starts)


def _of_partition(facts: Facts) -> list[str]:
    standing, resources = facts.standing, facts.view.request.resources
    if standing is None:
        return []
    limit = "no limit" if standing.max_minutes is None else f"{_minutes(standing.max_minutes)} at most"
    told = [
        f"partition {standing.name} is {standing.state}: {limit}, asked for {_minutes(resources.minutes)}"
    ]
    for group in standing.nodes:
        reason = f" ({group.reason})" if group.reason else ""
        nodes = "node" if group.count == 1 else "nodes"
        told.append(f"{group.count} {nodes} {group.state}: {group.names}{reason}")
    return told


def _in_service(standing: Standing) -> tuple[int, int]:
    """(nodes in service, all nodes)."""
    up = sum(group.count for group in standing.nodes if group.state.startswith(_IN_SERVICE))
    return up, sum(group.count for group in standing.nodes)


def _local(facts: Facts) -> Explanation:
    if not facts.slot_alive:
        return _answer(
            facts,
            "The local slot that would run it is not started.",
            "`hpcpools up slot` starts it.",
            code="NoSlot",
        )
    if facts.ahead:
        return _answer(
            facts,
            "This machine runs one training at a time, oldest first.",
            "Wait, or cancel what is before it.",
            f"{facts.ahead} trainings come first",
            code="Slot",
        )
    return _answer(
        facts,
        "It is the next one; another project's training may hold the machine.",
        "Wait: it starts by itself.",
        code="Slot",
    )


def _running(facts: Facts) -> Explanation:
    view, progress = facts.view, facts.progress
    node = view.attempt.where if view.attempt else ""
    started = view.attempt.started if view.attempt and view.attempt.started else view.since
    limit = view.request.resources.minutes
    evidence = [
        f"runs for {durations.age(facts.now - started)} of {_minutes(limit)}"
        + (f" on {node}" if node else "")
        + (f", attempt {len(view.attempts)}" if len(view.attempts) > 1 else "")
    ]
    quiet = facts.now - max(view.since, progress.at if progress else 0.0)
    if progress and progress.step is not None:
        total = f"/{progress.total}" if progress.total else ""
        evidence.append(f"last step {progress.step}{total}, {durations.age(facts.now - progress.at)} ago")
    else:
        evidence.append("no step logged yet (`run.log(step=…)`)")
    word = states.meaning(view.detail)
    if view.cancel_asked:
        return _answer(facts, "It was told to end, and is ending.", "Wait.", *evidence, code="Cancelling")
    if view.detail not in ("", "RUNNING") and word.phase == "running":
        return _answer(facts, f"Slurm: {word.summary}.", "Wait.", *evidence, code=view.detail)
    if quiet > SILENT:
        return _answer(
            facts,
            f"It runs, but has logged nothing for {durations.age(quiet)}.",
            "See `hpcpools logs RUN`; if it hangs, `hpcpools cancel RUN` and submit it again.",
            *evidence,
            code="Silent",
        )
    return _answer(
        facts, "It runs.", "Nothing to do; `hpcpools logs RUN -f` follows it.", *evidence, code="Running"
    )


_ENDS: dict[Cause, tuple[str, str]] = {
    Cause.USER_ERROR: (
        "The training itself failed.",
        "See `hpcpools logs RUN`; correct it and submit again.",
    ),
    Cause.BAD_SUBMISSION: ("Slurm never had it, or refused it.", "Submit it again."),
    Cause.CANCELLED: ("It was cancelled.", "Submit it again if that was not wanted."),
    Cause.TIME_LIMIT: (
        "It ran into its time limit.",
        "Submit it again with a longer --time, or shorter work between checkpoints.",
    ),
    Cause.OUT_OF_MEMORY: (
        "It ran out of memory (of the node or of a GPU).",
        "Use a smaller batch, or a partition with more memory; `hpcpools logs RUN` tells which.",
    ),
    Cause.NODE_FAILURE: ("Its node failed.", "Submit it again; nothing is wrong with the training."),
    Cause.BAD_NODE: ("The checks before the training found its node unfit.", "Submit it again."),
    Cause.PREEMPTED: ("A job of higher priority took its node.", "Submit it again."),
    Cause.LAUNCH_FAILURE: (
        "The node could not start it.",
        "See the launcher's log in its directory (`hpcpools show RUN`); submit it again.",
    ),
    Cause.STOPPED: ("It heeded a warning before the limit or a preemption, and stopped.", "Submit it again."),
    Cause.KILLED: (
        "A process was killed by a signal.",
        "See `hpcpools logs RUN`; a KILL often means out of memory.",
    ),
    Cause.LOST: (
        "Slurm has no record of it and it left no end marker.",
        "Submit it again; ask the administrators if it happens often.",
    ),
}


def _ended(facts: Facts) -> Explanation:
    view = facts.view
    evidence = [
        f"ended {durations.age(facts.now - view.since)} ago, attempts: {len(view.attempts)}",
        f"exit code {view.exit_code}" if view.exit_code else "",
        view.reason,
        f"Slurm said {view.detail}" if view.detail else "",
    ]
    if facts.progress and facts.progress.step is not None:
        evidence.append(f"last step {facts.progress.step}")
    if facts.retryable is not None and view.state is not RunState.COMPLETED:
        evidence.append(f"worth trying again as it is: {'yes' if facts.retryable else 'no'}")
    if view.state is RunState.COMPLETED:
        cause, action = "It completed.", "`hpcpools result RUN` prints what it returned."
    else:
        cause, action = _ENDS.get(
            view.cause,
            (f"It ended {view.state.value}" + (f": {view.cause.value}." if view.cause.value else "."),
             "See `hpcpools logs RUN`."),
        )  # fmt: skip
    return _answer(facts, cause, action, *evidence, code=view.cause.value or view.state.value)


def _minutes(minutes: int) -> str:
    return durations.age(minutes * 60)
