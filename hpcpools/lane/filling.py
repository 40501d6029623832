"""Waiting jobs into batches, batches into Slurm: as few Slurm jobs as the config's bounds allow.

Owns the way from a claim to sbatch. Refuses to claim what it has no room for, and to send a batch twice: an
unclear sbatch is settled by looking for its token.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpcpools.catalog import BUILT_IN
from hpcpools.errors import HpcpoolsError, RefusedError, SlurmRefusedError, SubmissionUnknownError
from hpcpools.eventlog import event, log
from hpcpools.lane import grouping
from hpcpools.lane.executor import LaneExecutor
from hpcpools.lane.grouping import Group, Needs
from hpcpools.lane.inflight import InFlight
from hpcpools.lane.worker import Held
from hpcpools.runs import batches
from hpcpools.runs.batches import Batch, Carried
from hpcpools.runs.token import new_batch_token
from hpcpools.schema import LANE_QUEUE
from hpcpools.slurm.bucket import Bucket
from hpcpools.training.submit import SUBMIT_BURST, SUBMIT_RATE

if TYPE_CHECKING:
    from hpcpools.lane.service import Lane

PAUSE = 30.0  # seconds without a submission after one that failed


def fill(lane: Lane) -> None:
    """Claim what waits, as far as there is room, and submit it."""
    room = lane.config.lane.max_jobs - sum(not batch.over for batch in lane.open.values())
    if room <= 0 or not lane.may_fill:
        return
    turn = Bucket(lane.config.root / ".submit.bucket", rate=SUBMIT_RATE, burst=SUBMIT_BURST)
    groups: list[Group] = []
    aside: list[Held] = []  # no group fits, and there is no room for one more
    for held in _claims(lane):
        job = _judged(lane, held)
        if job is None:
            continue
        group = next((each for each in groups if each.needs == job.needs and _fits(lane, each, job)), None)
        if group is None and len(groups) < room and turn.take():
            group = Group(job.needs)
            groups.append(group)
        if group is None:
            aside.append(held)
        else:
            group.add(job.carried, job.expected)
        full = len(groups) == room and all(group.is_full(lane.config) for group in groups)
        if full or len(aside) >= lane.config.lane.group or (aside and not groups):
            break
    for held in reversed(aside):  # each goes to the front: they end in their old order
        lane.worker.give_back(held.queue, held.id, held.execution, count=False, reason="")
    for group in groups:
        _send(lane, group)


def _claims(lane: Lane) -> Iterator[Held]:
    """The lane's own queue, then what waits too long in the others, or is too much for them."""
    while held := lane.worker.claim(LANE_QUEUE):
        yield held
    for queue in lane.overflow:
        while _overflows(lane, queue):
            held = lane.worker.claim(queue)
            if held is None:
                break
            if held.job.task.startswith(f"{BUILT_IN}:") and held.job.task != grouping.RUNNER:
                lane.worker.give_back(held.queue, held.id, held.execution, count=False, reason="upkeep")
                break  # it works on Redis: a worker must take it first
            yield held


def _overflows(lane: Lane, queue: str) -> bool:
    after, above = lane.config.lane.overflow_after, lane.config.lane.overflow_above
    return (above is not None and lane.worker.length(queue) > above) or (
        after is not None and lane.worker.waited(queue) >= after
    )


@dataclass(frozen=True)
class _Judged:
    """A claimed job that may run, what it needs, and how many seconds it will take."""

    carried: Carried
    needs: Needs
    expected: float


def _judged(lane: Lane, held: Held) -> _Judged | None:
    """None for a job that must not run, which fails here."""
    limit = float(held.job.timeout or lane.config.short.timeout)
    try:
        task = grouping.carried_task(lane.listed, held.job.entry(), held.job.kwargs)
        needs = grouping.needs(lane.config, task, limit)
    except RefusedError as error:
        lane.worker.finish(held.queue, held.id, held.execution, {"outcome": "failed", "reason": str(error)})
        return None
    carried = Carried(held.id, held.execution, held.queue, held.job.task, held.job.kwargs, limit)
    return _Judged(carried, needs, grouping.expected(lane.times, carried.task, limit))


def _fits(lane: Lane, group: Group, job: _Judged) -> bool:
    return group.has_room(lane.config, job.expected, job.carried.timeout)


def _send(lane: Lane, group: Group) -> None:
    config, now = lane.config, time.time()
    batch = Batch(
        token=new_batch_token(now),
        lane=lane.worker.name,
        created=now,
        partition=group.needs.partition,
        gpus=group.needs.gpus,
        cpus=group.needs.cpus,
        mem=group.needs.mem,
        minutes=group.minutes,
        jobs=tuple(group.jobs),
        modules=(*config.project.modules, BUILT_IN),
        python_path=config.python_path,
        workdir=str(config.folder.resolve()),
        config=config.file,
    )
    try:
        place = batches.create(config.root, batch)
    except HpcpoolsError as error:
        log.error(event("batch-fail", error=error))
        for job in reversed(batch.jobs):
            lane.worker.give_back(job.queue, job.id, job.execution, count=False, reason=error.message)
        lane.wait_with(PAUSE)
        return
    opened = lane.open[batch.token] = InFlight(place, batch)
    _withdraw_what_is_gone(lane, opened)
    try:
        opened.job_id = LaneExecutor(config, place, batch, lane.runner).send()
        place.submitted(opened.job_id, time.time())
        log.info(event("submit", batch=batch.token, slurm_job=opened.job_id, jobs=len(batch.jobs)))
    except SubmissionUnknownError as error:
        log.warning(event("submit-unclear", batch=batch.token, error=error))
        lane.wait_with(PAUSE)
    except HpcpoolsError as error:  # nothing was queued
        log.error(event("submit-fail", batch=batch.token, error=error))
        _take_back(opened, error)
        lane.wait_with(PAUSE)


def _withdraw_what_is_gone(lane: Lane, opened: InFlight) -> None:
    """Between claim and batch this lane may have hung so long that another one gave its jobs back.

    The heartbeat comes first: from then on nobody takes it for dead.
    """
    lane.worker.beat(opened.held)
    ours = {each for each, name in lane.worker.holders(opened.held).items() if name == lane.worker.name}
    for number, job in opened.unsettled:
        if (job.queue, job.id, job.execution) not in ours:
            opened.place.withdraw(number, "returned", reason="it is held no more")


def _take_back(opened: InFlight, error: HpcpoolsError) -> None:
    """What needs Slurm fails if Slurm refuses it for good; anything else goes back to its queue."""
    opened.over = "not submitted"
    for number, job in reversed(list(enumerate(opened.batch.jobs))):
        refused = isinstance(error, SlurmRefusedError) and job.queue == LANE_QUEUE
        opened.place.withdraw(number, "failed" if refused else "returned", reason=error.message)
