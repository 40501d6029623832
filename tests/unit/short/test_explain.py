"""Golden answers for short jobs: each way to wait or to end has its own code and next action."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec import structs

from hpcpools.short.explain import Facts, explain
from hpcpools.short.views import JobDetail, JobView

NOW = 1_000_000.0
QUEUED = Facts(
    JobDetail(
        JobView("j1", "m.f()", "evaluation", "queued", "", NOW - 60, None, None),
        "m:f",
        {},
        60.0,
        0,
        0,
        None,
        "",
        "",
    ),
    NOW,
    place=0,
    serving=2,
    scheduler="host:1",
)


def at(state: str, reason: str = "", **facts: object) -> Facts:
    """The job in another state."""
    job = structs.replace(QUEUED.detail.job, state=state, worker="w")
    detail = structs.replace(QUEUED.detail, job=job, reason=reason)
    return replace(QUEUED, detail=detail, **facts)  # type: ignore[arg-type]


GOLDEN = [
    (QUEUED, "Next", "next free worker"),
    (replace(QUEUED, serving=0), "NoWorker", "hpcpools up"),
    (replace(QUEUED, suspended=True), "Suspended", "rq:suspended"),
    (replace(QUEUED, place=3, first=2, busy=2), "Waiting", "--front"),
    (replace(QUEUED, place=None), "Astray", "enqueue it again"),
    (replace(QUEUED, refusal="its signature does not match"), "Refused", "hpcpools enqueue"),
    (at("started", heartbeat_age=3.0), "Running", "hpcpools cancel j1"),
    (at("started"), "WorkerLost", "puts it back"),
    (at("scheduled", scheduled_for=NOW + 60), "Scheduled", "Wait"),
    (at("scheduled", scheduled_for=NOW + 60, scheduler=""), "NoScheduler", "hpcpools up scheduler"),
    (at("scheduled", "Boom: x", scheduled_for=NOW + 60), "Retry", "tried again"),
    (at("deferred", dependencies=(("j0", "started"),)), "Dependency", "Wait"),
    (at("deferred", dependencies=(("j0", "failed"),)), "DependencyFailed", "hpcpools explain j0"),
    (at("deferred", dependencies=(("j0", ""),)), "DependencyFailed", "cancel this one"),
    (at("failed", "refused: it is not signed"), "Refused", "hpcpools tasks"),
    (at("failed", "its worker was killed 3 times while it ran"), "Killed", "too much memory"),
    (at("failed", "killed by signal 9 (SIGKILL)"), "Killed", "out of memory"),
    (at("failed", "ran over its limit of 60 s"), "Timeout", "--timeout"),
    (at("failed", "ValueError: x"), "TaskFailed", "hpcpools show j1"),
    (at("finished"), "Finished", "hpcpools result j1"),
    (at("stopped"), "Stopped", "Enqueue it again"),
    (at("canceled"), "Canceled", "Enqueue it again"),
]


@pytest.mark.parametrize(("facts", "code", "action"), GOLDEN, ids=lambda value: str(value)[:20])
def test_golden_answers(facts: Facts, code: str, action: str) -> None:
    """Pure: from the facts alone."""
    answer = explain(facts)
    assert answer.code == code
    assert action in answer.action
    assert answer.cause.endswith(".")


def test_the_evidence_counts() -> None:
    """How many are before it, and where; when a try is due."""
    answer = explain(replace(QUEUED, place=3, first=2, busy=2))
    assert answer.cause == "5 jobs come before it."
    assert any(
        "3 before it in queue evaluation, 2 in queues of higher priority" in t for t in answer.evidence
    )
    assert explain(at("scheduled", "Boom: x", scheduled_for=NOW + 60)).starts == NOW + 60
