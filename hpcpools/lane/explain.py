"""Why a job that the lane serves is in its state: it waits for the lane, for Slurm, or for its turn.

Refuses more than one question to Slurm; the words for its reasons are those that runs are explained with.
"""

from __future__ import annotations

import time

from hpcpools import durations
from hpcpools.config import Config
from hpcpools.explanation import Explanation
from hpcpools.lane import views
from hpcpools.lane.views import Found
from hpcpools.schema import LANE_QUEUE
from hpcpools.short.explain import Facts
from hpcpools.short.recovery import LANE
from hpcpools.slurm import reasons, states
from hpcpools.training import engine, watch

FRESH = 10.0  # seconds: the oldest answer of Slurm that an explanation is content with


def explain(config: Config, facts: Facts) -> Explanation | None:
    """The answer, if the lane has anything to do with the job; None if the short pool's answer is right."""
    job = facts.detail.job
    if facts.refusal:
        return None
    if job.state == "queued" and job.queue == LANE_QUEUE and facts.place is not None and not facts.suspended:
        return _queued(config, facts)
    if job.state == "started" and job.worker.startswith(LANE) and views.find(config, job.id):
        return _carried(config, facts)
    return _failed(facts) if job.state == "failed" else None


def _failed(facts: Facts) -> Explanation | None:
    reason = facts.detail.reason
    if reason.startswith("Slurm refused the job"):
        return _answer(
            facts,
            "Slurm refused the job that was to run it.",
            "Correct [lane] in hpcpools.toml, or what the task declares, and enqueue it again.",
            "SlurmRefused",
            reason,
        )
    if reason.startswith("given up after"):
        return _answer(
            facts,
            "Every Slurm job that carried it ended under it, so it was given up.",
            "Look into the batches' logs in .lane; perhaps it needs more memory (`@task(mem=…)`).",
            "Killed",
            reason,
        )
    return None


def _queued(config: Config, facts: Facts) -> Explanation:
    job, lane = facts.detail.job, config.lane
    waits = "" if job.enqueued is None else f"waits for {durations.age(facts.now - job.enqueued)}"
    if not facts.serving:
        cause, action = "The Slurm lane, which alone serves its queue, does not run.", "`hpcpools up lane`"
        return _answer(facts, cause, f"Start it with {action}.", "NoLane", waits)
    before = f"{facts.place} jobs come before it" if facts.place else "it is the next one"
    carrying = views.open_batches(config)
    if len(carrying) >= lane.max_jobs:
        return _answer(
            facts,
            f"The lane has as many Slurm jobs as it may ({lane.max_jobs}).",
            "Wait until one ends; lane.max_jobs in hpcpools.toml is the limit.",
            "LaneFull",
            before,
            waits,
        )
    return _answer(facts, "The lane takes it in a moment.", "Wait.", "Lane", before, waits)


def _carried(config: Config, facts: Facts) -> Explanation | None:
    runner = engine.runner(config)
    seen = watch.refresh(config, runner, max_age=min(FRESH, float(config.slurm.poll_interval)))
    found = views.find(config, facts.detail.job.id)
    if found is None:
        return None
    job_id = found.place.job_id() or str(found.listed.get("job_id", ""))
    doubt = f"Slurm does not answer now: {seen.error}" if seen.error else ""
    where = f"task {found.number + 1} of {len(found.batch.jobs)} in Slurm job {job_id or '(not known yet)'}"
    if found.place.ending(found.number):
        return _answer(facts, "It has ended on its node.", "Wait: the lane takes its end in.", "Ended", where)
    if started := found.place.started(found.number):
        ran = durations.age(time.time() - float(started.get("at", time.time())))
        limit = durations.age(found.batch.jobs[found.number].timeout)
        return _answer(
            facts,
            f"It runs on {started.get('node', 'a node')}.",
            "Wait; `hpcpools cancel JOB` ends it.",
            "Running",
            f"runs for {ran} of {limit} at most",
            where,
            f"its output: {found.place.log(found.number)}",
            doubt,
        )
    return _waiting(facts, found, job_id, where, doubt)


def _waiting(facts: Facts, found: Found, job_id: str, where: str, doubt: str) -> Explanation:
    state, expected = str(found.listed.get("state", "")), found.listed.get("expected")
    if states.meaning(state).phase == "running":
        return _answer(
            facts, "Its Slurm job runs; other tasks of it come first.", "Wait.", "InTurn", where, doubt
        )
    if not state:
        return _answer(
            facts,
            f"It was given to Slurm as job {job_id}." if job_id else "It is being given to Slurm.",
            "Wait; ask again in a moment.",
            "Submitted",
            where,
            doubt,
        )
    reason = reasons.read(str(found.listed.get("reason", "")))
    return _answer(
        facts,
        f"It waits for Slurm job {job_id}. {reason.cause}",
        reason.action.replace("JOBID", job_id),
        reason.code,
        f"Slurm says {state}, reason {reason.code}",
        where,
        doubt,
        starts=float(expected) if expected else None,
    )


def _answer(
    facts: Facts, cause: str, action: str, code: str, *evidence: str, starts: float | None = None
) -> Explanation:
    job = facts.detail.job
    deaths = f"{facts.detail.deaths} Slurm jobs ended under it" if facts.detail.deaths else ""
    return Explanation(
        job.id,
        job.state,
        cause,
        action.replace("JOB", job.id),
        code,
        tuple(text for text in (*evidence, deaths) if text),
        starts,
        facts.now,
    )
