"""Why a short job is in its state, and what to do: the facts in a few round trips, then a pure decision.

Refuses to import a user's code or to run anything: the signature is checked, the task is not loaded.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rq.exceptions import NoSuchJobError

from hpcpools import durations
from hpcpools.catalog import Catalog
from hpcpools.config import Config
from hpcpools.explanation import Explanation
from hpcpools.redisdb.connect import connect
from hpcpools.redisdb.outage import told
from hpcpools.short import lease, views
from hpcpools.short.job import HpcJob, bind
from hpcpools.short.scripts import MAX_DEATHS, queue_key
from hpcpools.short.views import JobDetail
from hpcpools.textsafe import one_line

if TYPE_CHECKING:
    from redis import Redis

WORKER_LOST = 120.0  # seconds without a heartbeat
RETRIED = "Wait: it is tried again. See `hpcpools show JOB` for what went wrong."


@dataclass(frozen=True)
class Facts:
    """What is known of a short job. Lengths of time and ages in seconds.

    ``place``: jobs before it in its own queue, None if it is in none; ``first``: jobs in queues of higher
    priority; ``serving``: live workers that serve its queue, and ``busy`` how many of them work.
    """

    detail: JobDetail
    now: float
    refusal: str = ""
    place: int | None = None
    first: int = 0
    serving: int = 0
    busy: int = 0
    suspended: bool = False
    scheduled_for: float | None = None
    scheduler: str = ""
    dependencies: tuple[tuple[str, str], ...] = ()  # job id, its state ("" if it is gone)
    heartbeat_age: float | None = None  # of the worker that runs it


def gather(config: Config, job_id: str) -> Facts:
    """All facts about a job. Raises NotFoundError, RedisUnavailableError."""
    detail = views.show(config, job_id)
    queue = detail.job.queue
    alive = [
        worker
        for worker in views.workers(config)
        if worker.heartbeat_age is not None and worker.heartbeat_age < WORKER_LOST
    ]
    serving = [worker for worker in alive if queue in worker.queues]
    names = config.short.queues
    with told(), connect(config) as connection:
        before = names[: names.index(queue)] if queue in names else ()
        with connection.pipeline(transaction=False) as pipe:
            pipe.lpos(queue_key(queue), job_id)
            pipe.exists("rq:suspended")
            pipe.zscore(f"rq:scheduled:{queue}", job_id)
            for name in before:
                pipe.llen(queue_key(name))
            place, suspended, scheduled_for, *lengths = pipe.execute()
        holder = lease.holder(connection)
        refusal, dependencies = _signed_facts(config, connection, job_id)
    return Facts(
        detail,
        time.time(),
        refusal,
        place,
        sum(lengths),
        len(serving),
        sum(bool(worker.job) for worker in serving),
        bool(suspended),
        scheduled_for,
        holder.name if holder else "",
        dependencies,
        next((w.heartbeat_age for w in alive if w.name == detail.job.worker), None),
    )


def _signed_facts(config: Config, connection: Redis, job_id: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Why the job would be refused, if it would be, and the jobs that it waits for."""
    job_class: type[HpcJob] = bind(config, Catalog({}))
    try:
        job = job_class.load(job_id, connection)
    except (NoSuchJobError, ValueError):
        return "", ()
    wanted = [] if job.refusal else list(job._dependency_ids)
    with connection.pipeline(transaction=False) as pipe:
        for other in wanted:
            pipe.hget(f"rq:job:{other}", "status")
        states = pipe.execute(raise_on_error=False)
    words = [
        one_line(state.decode("utf-8", "replace")) if isinstance(state, bytes) else "" for state in states
    ]
    if job.allow_dependency_failures:
        words = ["failed (allowed)" if word == "failed" else word for word in words]
    return job.refusal, tuple((one_line(str(other)), word) for other, word in zip(wanted, words, strict=True))


def explain(facts: Facts) -> Explanation:
    """The answer. Pure."""
    state = facts.detail.job.state
    if facts.refusal and state not in ("finished", "canceled"):
        return _answer(
            facts,
            f"It is refused: {facts.refusal}.",
            "Enqueue it again with `hpcpools enqueue`; if nobody changed Redis by hand, look who did.",
            code="Refused",
        )
    decide = {
        "queued": _queued,
        "started": _started,
        "scheduled": _scheduled,
        "deferred": _deferred,
        "failed": _failed,
    }.get(state)
    if decide is not None:
        return decide(facts)
    words = {
        "finished": ("It is done.", "`hpcpools result JOB` prints what it returned."),
        "stopped": ("It was stopped while it ran.", "Enqueue it again if that was not wanted."),
        "canceled": ("It was cancelled before it ran.", "Enqueue it again if that was not wanted."),
    }
    return _answer(facts, *words.get(state, (f"Its state is {state!r}.", "See `hpcpools show JOB`.")))


def _answer(
    facts: Facts, cause: str, action: str, *evidence: str, code: str = "", starts: float | None = None
) -> Explanation:
    job = facts.detail.job
    deaths = f"its worker was killed {facts.detail.deaths} times" if facts.detail.deaths else ""
    return Explanation(
        job.id,
        job.state,
        cause,
        action.replace("JOB", job.id).replace("QUEUE", job.queue),
        code or job.state.capitalize(),
        tuple(text for text in (*evidence, deaths) if text),
        starts,
        facts.now,
    )


def _queued(facts: Facts) -> Explanation:
    job = facts.detail.job
    age = (
        "" if job.enqueued is None else f"in queue {job.queue} for {durations.age(facts.now - job.enqueued)}"
    )
    if facts.place is None:
        return _answer(
            facts,
            "It counts as queued, but is in no queue: it is just being moved, or its entry was lost.",
            "Ask again in a moment; enqueue it again if this stays.",
            age,
            code="Astray",
        )
    if not facts.serving:
        return _answer(
            facts,
            f"No live worker serves queue {job.queue}.",
            "Start the workers with `hpcpools up`; `hpcpools ps` shows what runs.",
            age,
            code="NoWorker",
        )
    if facts.suspended:
        return _answer(
            facts,
            "The pool is suspended: workers finish what they do and start nothing.",
            "`hpcpools resume` lets them go on (it deletes the key rq:suspended).",
            age,
            code="Suspended",
        )
    before = facts.place + facts.first
    served = f"{facts.busy} of {facts.serving} workers of this queue are busy"
    if before:
        return _answer(
            facts,
            f"{before} jobs come before it.",
            "Wait; more [short] workers, or `--front`, would bring it on sooner.",
            age,
            f"{facts.place} before it in queue {job.queue}, {facts.first} in queues of higher priority",
            served,
            code="Waiting",
        )
    return _answer(
        facts, "It is the next one.", "Wait: the next free worker takes it.", age, served, code="Next"
    )


def _started(facts: Facts) -> Explanation:
    job = facts.detail.job
    ran = "" if job.started is None else f"runs for {durations.age(facts.now - job.started)}"
    limit = facts.detail.timeout
    ran += f" of {durations.age(limit)} at most" if ran and limit and limit > 0 else ""
    if facts.heartbeat_age is None:
        return _answer(
            facts,
            f"Its worker {job.worker or '(unknown)'} gives no sign of life.",
            "The pool puts it back into its queue by itself; if no pool runs, start it with `hpcpools up`.",
            ran,
            code="WorkerLost",
        )
    beat = f"heartbeat of {job.worker} {durations.age(facts.heartbeat_age)} ago"
    return _answer(facts, "It runs.", "Wait; `hpcpools cancel JOB` ends it.", ran, beat, code="Running")


def _scheduled(facts: Facts) -> Explanation:
    due = facts.scheduled_for
    again = bool(facts.detail.reason)
    when = "" if due is None else f"due in {durations.age(max(0.0, due - facts.now))}"
    retries = f"{facts.detail.retries_left} tries left" if again else ""
    if not facts.scheduler:
        return _answer(
            facts,
            "It is scheduled for later, and no scheduler is live to enqueue it.",
            "Start it with `hpcpools up scheduler`.",
            when,
            facts.detail.reason,
            retries,
            code="NoScheduler",
            starts=due,
        )
    if again:
        return _answer(
            facts,
            "It failed and is tried again later.",
            RETRIED,
            when,
            facts.detail.reason,
            retries,
            code="Retry",
            starts=due,
        )
    return _answer(facts, "It is scheduled for later.", "Wait.", when, code="Scheduled", starts=due)


def _deferred(facts: Facts) -> Explanation:
    shown = [f"{job_id} is {state or 'gone'}" for job_id, state in facts.dependencies]
    bad = [job_id for job_id, state in facts.dependencies if state in ("failed", "stopped", "canceled", "")]
    if bad:
        return _answer(
            facts,
            f"It waits for {bad[0]}, which did not succeed, so it will not start by itself.",
            f"`hpcpools explain {bad[0]}` tells why; `hpcpools requeue {bad[0]}`, or cancel this one.",
            *shown,
            code="DependencyFailed",
        )
    return _answer(facts, "It waits for other jobs to finish.", "Wait.", *shown, code="Dependency")


def _failed(facts: Facts) -> Explanation:
    detail = facts.detail
    if detail.reason.startswith("refused:"):
        return _answer(
            facts,
            "It was refused before it ran.",
            "Enqueue it again with `hpcpools enqueue`; `hpcpools tasks` lists what is declared.",
            detail.reason,
            code="Refused",
        )
    if f"killed {MAX_DEATHS} times" in detail.reason:
        return _answer(
            facts,
            "Every worker that ran it was killed, so it was given up.",
            "It probably takes too much memory: run it by hand, or as a training.",
            detail.reason,
            code="Killed",
        )
    if detail.reason.startswith("ran over its limit"):
        return _answer(
            facts,
            "It ran over its time limit.",
            "Give it more time (`--timeout`, or the declaration), or make it a training.",
            detail.reason,
            code="Timeout",
        )
    if "killed by signal" in detail.reason:
        return _answer(
            facts,
            "Its process was killed.",
            "A KILL often means out of memory: use less, or make it a training.",
            detail.reason,
            code="Killed",
        )
    return _answer(
        facts,
        "The task itself failed.",
        "See the traceback in `hpcpools show JOB`; correct it and enqueue it again.",
        detail.reason,
        code="TaskFailed",
    )
