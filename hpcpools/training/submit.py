"""Hand a planned request to its engine: exactly one job per run, whatever sbatch answers.

The run is durable before sbatch. A refusal leaves nothing behind; an uncertain answer is settled by
looking the token up before anything is sent again (REL-10).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from hpcpools.config import Config, environment
from hpcpools.errors import (
    HpcpoolsError,
    SlurmRefusedError,
    SlurmUnavailableError,
    SubmissionUnknownError,
)
from hpcpools.runs import directory, nodes
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Request, Resources, digest, encode
from hpcpools.runs.states import Cause, RunState
from hpcpools.slurm import accounting, queue
from hpcpools.slurm.bucket import Bucket
from hpcpools.slurm.command import Runner
from hpcpools.slurm.environment import job_environment
from hpcpools.training import engine
from hpcpools.training import environment as recorded

if TYPE_CHECKING:
    from hpcpools.training.executors import NodeSlurmExecutor

Note = Callable[[str], None]
SUBMIT_RATE, SUBMIT_BURST = 1.0, 20  # submissions per second over time, and at once
SHARED_SQUEUE, SHARED_SACCT = 10.0, 60.0  # seconds: how old an answer may be where one serves many look-ups


@dataclass(frozen=True)
class Found:
    """What a look-up of a token told: the job's id, or certainty that there is none."""

    job_id: str = ""
    certain: bool = False


def submit(config: Config, request: Request, note: Note = lambda _text: None) -> RunDirectory:
    """Make the run durable and submit it. ``note`` hears what takes long.

    Raises SlurmRefusedError or SlurmUnavailableError (nothing queued, nothing left behind) and
    SubmissionUnknownError (the run stays SUBMITTING; upkeep goes on looking).
    """
    facts = recorded.gather(config, request.workdir)
    run = directory.create(config.root, request)
    recorded.record([run], facts)
    if request.engine == "local":
        run.record(RunState.PENDING, time.time(), reason="waits for the local slot")
        return run
    exclude = avoided(config, run.token, request.resources)
    number = run.next_submission(time.time(), **exclude) or 0  # a new run: nobody else can have taken it
    try:
        job_id = send(config, run, request, number, note)
    except (SlurmRefusedError, SlurmUnavailableError):  # nothing was queued
        directory.discard(run)
        raise
    except KeyboardInterrupt:
        run.cancel(time.time())  # if the job exists after all, its node will not run it
        run.record(RunState.SUBMITTING, time.time(), detail="interrupted", reason="interrupted by the user")
        raise
    run.submitted(number, job_id, "", time.time())
    run.record(RunState.PENDING, time.time(), job_id=job_id)
    return run


def send(config: Config, run: RunDirectory, request: Request, number: int, note: Note) -> str:
    """sbatch for submission ``number``; the job's id, also when only a look-up finds it."""
    runner = engine.runner(config)
    facts = run.submission(number)
    exclude = tuple(facts.get("exclude", ()))
    if lead := facts.get("signal_lead"):
        resources = msgspec.structs.replace(request.resources, signal_lead=lead)
        request = msgspec.structs.replace(request, resources=resources)
    executor = executor_for(config, run, request, runner, exclude)
    take_turn(config, note)
    try:
        return executor.send(number)
    except SubmissionUnknownError as error:
        run.record(RunState.SUBMITTING, time.time(), detail="unsettled", reason=error.message)
        note(f"sbatch gave no clear answer ({error.message}); looking for the job before any retry")

        def look(history: bool) -> Found:
            return look_up(runner, run, request.created, history=history)

        return settled(config, run.token, look, note) or executor.send(number)


def take_turn(config: Config, note: Note) -> None:
    """Wait until the next sbatch is polite (LOAD-5)."""
    wait = Bucket(config.root / ".submit.bucket", rate=SUBMIT_RATE, burst=SUBMIT_BURST).reserve()
    if wait > 1:
        note(f"many submissions in a row: waiting {wait:.0f} s, so as not to flood Slurm")
    time.sleep(wait)


def settled(config: Config, name: str, look: Callable[[bool], Found], note: Note) -> str:
    """After an unclear sbatch: the id of the job called ``name``, or "" if it is certainly not there.

    ``look(history)`` looks it up once. Raises SubmissionUnknownError if nobody can say.
    """
    found, waited = Found(), 0.0
    for delay in config.slurm.submit_lookups:
        time.sleep(max(0.0, float(delay) - waited))
        waited = float(delay)
        found = look(delay is config.slurm.submit_lookups[-1])  # until then absence decides nothing: no sacct
        note(f"after {waited:.0f} s: " + (f"it is job {found.job_id}" if found.job_id else "not seen yet"))
        if found.job_id:
            return found.job_id
    if not found.certain:
        raise SubmissionUnknownError(
            f"nobody can say yet whether Slurm has {name}",
            hint="it stays SUBMITTING and upkeep settles it; do not submit it again",
        )
    note(f"{name} is certainly not there: submitting it once more")
    return ""


def look_up(
    runner: Runner, run: RunDirectory, since: float, *, history: bool = True, shared: bool = False
) -> Found:
    """Ask squeue, then sacct, for a run's job that is not known yet. Certain absence needs an answer from
    squeue, and from sacct unless the site has none. ``shared``: many runs are looked up with this runner."""
    known = run.job_ids()
    try:
        listed = queue.find_token(runner, run.token, max_age=SHARED_SQUEUE if shared else 0.0)
        jobs = [job for job in listed if job.job_id not in known]
        if jobs:
            return Found(min(jobs, key=lambda job: job.submit or 0.0).job_id, certain=True)
        if not history:
            return Found()
        ended = accounting.find_token(runner, run.token, since - 60, max_age=SHARED_SACCT if shared else 0.0)
    except HpcpoolsError:
        return Found()
    new = [record.job_id for record in ended if record.job_id not in known]
    return Found(new[0] if new else "", certain=True)


def avoided(config: Config, token: str, asked: Resources) -> dict[str, Any]:
    """``{"exclude": nodes}`` that the next submission must not use (bad nodes), or nothing."""
    known = config.training.partitions.get(asked.partition)
    found = nodes.excluded(config.root, token, time.time(), known.nodes if known else 0, asked.nodes)
    return {"exclude": list(found)} if found else {}


def executor_for(
    config: Config, run: RunDirectory, request: Request, runner: Runner, exclude: tuple[str, ...] = ()
) -> NodeSlurmExecutor:
    """submitit's executor of one run."""
    from hpcpools.training.executors import NodeSlurmExecutor  # submitit: not for those who only look

    return NodeSlurmExecutor(run, request, runner, job_env(config), exclude)


def job_env(config: Config) -> dict[str, str]:
    """The environment that sbatch hands to the job: no inherited job, no secrets."""
    return job_environment(environment(), keep=config.training.keep_env)


def script(config: Config, request: Request) -> str:
    """What ``train --dry-run`` prints: the exact script, nothing written."""
    run = RunDirectory(config.root, request.token)
    executor = executor_for(config, run, request, engine.runner(config))
    return executor.script(0, digest(encode(request)))


def settle_old(config: Config, runner: Runner, run: RunDirectory, now: float) -> str:
    """For upkeep: a run still SUBMITTING after all look-ups. Adopts, submits again or gives up; says which.

    Only a run that sbatch itself left unsettled is sent again, under a new submission number: a job of
    the old number that turns up later finds itself superseded and runs nothing.
    """
    request = run.request()
    found = look_up(runner, run, request.created, shared=True)
    number = max(0, run.last_submission())
    if found.job_id:
        run.submitted(number, found.job_id, "", now)
        run.record(RunState.PENDING, now, job_id=found.job_id, reason="found by upkeep")
        return "adopted"
    if not found.certain:
        return "unknown"
    events = run.events()
    if run.cancelled():
        run.record(RunState.CANCELLED, now, cause=Cause.CANCELLED.value, reason="never reached Slurm")
        return "cancelled"
    if not events or events[-1].get("detail") != "unsettled":
        run.record(
            RunState.FAILED,
            now,
            cause=Cause.BAD_SUBMISSION.value,
            reason="the submitting process died before Slurm had it; submit again",
        )
        return "failed"
    facts = run.submission(number)
    kept = {key: facts[key] for key in ("exclude", "arguments") if key in facts}
    again = run.next_submission(now, after=number, **kept)
    if again is None:
        return "unknown"
    job_id = send(config, run, request, again, lambda _text: None)
    run.submitted(again, job_id, "", now)
    run.record(RunState.PENDING, now, job_id=job_id, reason="submitted again by upkeep")
    return "submitted"
