"""One sbatch array for many runs: how many elements, how it is sent, and how doubt about it is settled.

An array whose sbatch gave no clear answer is looked up by its key before any retry (REL-10): there is one
array, never two. Refuses indices that a site's MaxArraySize does not allow.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from hpcpools.config import Config
from hpcpools.errors import (
    HpcpoolsError,
    SlurmRefusedError,
    SlurmUnavailableError,
    SubmissionUnknownError,
    UsageError,
)
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Request
from hpcpools.runs.states import Cause, RunState
from hpcpools.runs.sweeps import Array, Element, SweepDirectory
from hpcpools.runs.view import read_view
from hpcpools.slurm import accounting, queue
from hpcpools.slurm import site as sites
from hpcpools.slurm.command import Runner
from hpcpools.training import engine, submit
from hpcpools.training.executors import ArrayExecutor
from hpcpools.training.submit import Found, Note

PER_ARRAY = 1000  # elements of one array, also where a site allows more (LOAD-5)
LOOK_AGAIN = 60.0  # seconds between two look-ups of one array by upkeep

KEPT = ("exclude", "arguments", "signal_lead")  # facts of a submission that its repetition keeps

Taken = Sequence[tuple[RunDirectory, int]]  # runs and the submission number that was taken for each


def split(count: int, max_array_size: int) -> list[int]:
    """The sizes of the arrays that carry ``count`` runs: every index starts at 0 and stays below the
    site's MaxArraySize, which caps the index itself. Raises UsageError where a site has no arrays."""
    size = min(PER_ARRAY, max_array_size)
    if size < 1:
        raise UsageError("this site allows no job arrays", hint="submit the runs with `hpcpools train`")
    return [min(size, count - start) for start in range(0, count, size)]


def shares(sizes: Sequence[int], max_parallel: int) -> list[int]:
    """How many of each array run at once, so that all arrays together keep to ``max_parallel``.

    Raises UsageError if there are more arrays than that.
    """
    if max_parallel < len(sizes):
        raise UsageError(
            f"{sum(sizes)} runs need {len(sizes)} arrays, of which each runs one element at least",
            hint=f"--max-parallel {len(sizes)} or more, and as much of slurm.max_in_flight",
        )
    base, extra = divmod(max_parallel, len(sizes))
    return [min(size, base + (at < extra)) for at, size in enumerate(sizes)]


def layout(config: Config, count: int, max_parallel: int) -> list[tuple[int, int]]:
    """(size, elements at once) of each array; asks the site once. Raises SlurmUnavailableError.

    ``max_parallel``: what the user allows, 0 for as many as the pool's limit, which is never exceeded.
    """
    sizes = split(count, sites.read_settings(engine.runner(config)).max_array_size)
    limit = config.slurm.max_in_flight
    return list(zip(sizes, shares(sizes, min(max_parallel or limit, limit)), strict=True))


def send_all(
    config: Config,
    place: SweepDirectory,
    taken: Taken,
    sizes: Sequence[tuple[int, int]],
    request: Request,
    note: Note,
) -> None:
    """Send the arrays in turn; after an error the runs that were not sent are FAILED, ready for a retry."""
    sent = 0
    for size, parallel in sizes:
        batch = taken[sent : sent + size]
        try:
            _send(config, place, batch, parallel, request, note)
        except (SlurmRefusedError, SlurmUnavailableError) as error:
            _not_sent(taken[sent:], error)
            if not sent:
                raise
            raise type(error)(
                f"{error.message}; {sent} of {len(taken)} runs are queued",
                hint=f"`hpcpools sweeps {place.id} --retry` sends the rest",
            ) from error
        except SubmissionUnknownError as error:
            _not_sent(taken[sent + size :], error)
            raise
        sent += size
        if len(sizes) > 1:
            note(f"{sent} of {len(taken)} runs are queued")


def _not_sent(taken: Taken, error: HpcpoolsError) -> None:
    for run, _ in taken:
        if not read_view(run).state.is_final:
            cause = Cause.BAD_SUBMISSION.value
            run.record(RunState.FAILED, time.time(), cause=cause, reason=f"not sent: {error.message}")


def _send(
    config: Config, place: SweepDirectory, batch: Taken, parallel: int, request: Request, note: Note
) -> None:
    """One array: manifest first, then one sbatch; an uncertain answer is settled by the array's key."""
    elements = [Element(run.token, number, run.digest()) for run, number in batch]
    array = place.new_array(elements, parallel, time.time())
    for run, _ in batch:
        if read_view(run).state is not RunState.SUBMITTING:
            run.revive(time.time(), RunState.SUBMITTING)
    runner = engine.runner(config)
    asked, excluded = _as_taken(batch, request), _avoided(config, place, batch, request)
    executor = ArrayExecutor(place, array, asked, runner, submit.job_env(config), excluded)
    try:
        job_id = _sent(config, runner, executor, array, batch, note)
    except KeyboardInterrupt:
        for run, _ in batch:  # if the array exists after all, no node will run it
            run.cancel(time.time())
            run.record(RunState.SUBMITTING, time.time(), detail="interrupted", reason="by the user")
        raise
    _acknowledge(place, array, job_id)


def _as_taken(batch: Taken, request: Request) -> Request:
    """The request with the earliest warning that one of the runs needs, by its measured checkpoints."""
    leads = [int(run.submission(number).get("signal_lead", 0)) for run, number in batch]
    lead = max(request.resources.signal_lead, *leads)
    return replace(request, resources=replace(request.resources, signal_lead=lead))


def _avoided(config: Config, place: SweepDirectory, batch: Taken, request: Request) -> tuple[str, ...]:
    """The nodes that all runs avoid, and the bad ones of these runs as long as other nodes are left."""
    asked = request.resources
    known = config.training.partitions.get(asked.partition)
    common = set(submit.avoided(config, place.id, asked).get("exclude", ()))
    tried = [run.token for run, number in batch if number]
    own = {node for token in tried for node in submit.avoided(config, token, asked).get("exclude", ())}
    left = known is None or not known.nodes or len(common | own) + asked.nodes <= known.nodes
    return tuple(sorted(common | own if left else common))


def _sent(
    config: Config, runner: Runner, executor: ArrayExecutor, array: Array, batch: Taken, note: Note
) -> str:
    submit.take_turn(config, note)
    try:
        return executor.send()
    except SubmissionUnknownError as error:
        for run, _ in batch:
            run.record(RunState.SUBMITTING, time.time(), detail="unsettled", reason=error.message)
        note(f"sbatch gave no clear answer ({error.message}); looking for the array before any retry")

        def look(history: bool) -> Found:
            return look_up(runner, array, history=history)

        return submit.settled(config, array.key, look, note) or executor.send()


def look_up(runner: Runner, array: Array, *, history: bool = True) -> Found:
    """Ask squeue, then sacct (``history``), for an array by its key: its id, or certainty of none."""
    try:
        listed = [job.job_id for job in queue.find_token(runner, array.key)]
        if not listed and not history:
            return Found()
        known = listed or [job.job_id for job in accounting.find_token(runner, array.key, array.at - 60)]
    except HpcpoolsError:
        return Found()
    parents = sorted({int(job_id.partition("_")[0]) for job_id in known})
    return Found(str(parents[0]) if parents else "", certain=True)


def _acknowledge(place: SweepDirectory, array: Array, job_id: str) -> None:
    """Write Slurm's id down for the array and for each run that is still unacknowledged."""
    now = time.time()
    place.submitted(array.number, job_id, now)
    for index, element in enumerate(array.elements):
        run = RunDirectory(place.root, element.token)
        if run.last_submission() == element.submission and run.job(element.submission) is None:
            run.submitted(element.submission, f"{job_id}_{index}", "", now)
            if read_view(run).state is RunState.SUBMITTING:
                run.record(RunState.PENDING, now, job_id=f"{job_id}_{index}")


def settle_old(config: Config, runner: Runner, run: RunDirectory, now: float) -> str:
    """For upkeep: settle the whole array of a run that is still SUBMITTING after all look-ups; says how.

    One look-up for the array, however many of its runs wait. A run that was restarted alone, or never got
    into an array, is :func:`submit.settle_old`'s.
    """
    place = SweepDirectory(config.root, run.request().sweep)
    array = place.array_of(run.token, max(0, run.last_submission()))
    if array is None:
        return submit.settle_old(config, runner, run, now)
    return settle(config, runner, place, array, now)


def settle(
    config: Config,
    runner: Runner,
    place: SweepDirectory,
    array: Array,
    now: float,
    *,
    look_again: float = LOOK_AGAIN,
    patience: float = 0.0,
) -> str:
    """Settle an array whose sbatch left no answer: adopted, unknown, cancelled, failed or submitted.

    ``look_again``: seconds between two look-ups. ``patience``: seconds since it was made for which its
    absence proves nothing, because its sbatch may still be on the way.
    """
    known = place.job_id(array.number)  # there if only some of its runs were told
    if not known and now - place.last_look(array.number) < look_again:
        return "unknown"
    found = Found(known, certain=True) if known else look_up(runner, array)
    if found.job_id:
        _acknowledge(place, array, found.job_id)
        return "adopted"
    if not found.certain or now - array.at < patience:
        place.looked(array.number, now)
        return "unknown"
    numbers = {element.token: element.submission for element in array.elements}
    members = [RunDirectory(config.root, token) for token in numbers]
    waiting = [each for each in members if read_view(each).state is RunState.SUBMITTING]
    wanted = [each for each in waiting if not each.cancelled()]
    for each in waiting:
        if each.cancelled():
            cause = Cause.CANCELLED.value
            each.record(RunState.CANCELLED, now, cause=cause, reason="never reached Slurm")
    if not wanted:
        return "cancelled"
    if not any(event.get("detail") == "unsettled" for event in wanted[0].events()[-1:]):
        return _give_up(wanted, now)
    taken = [(each, number) for each in wanted if (number := _again(each, numbers, now)) is not None]
    if not taken:
        return "unknown"
    sizes = [(len(taken), min(len(taken), array.parallel))]
    send_all(config, place, taken, sizes, taken[0][0].request(), lambda _text: None)
    return "submitted"


def _again(run: RunDirectory, numbers: Mapping[str, int], now: float) -> int | None:
    before = numbers[run.token]
    facts: dict[str, Any] = run.submission(before)
    return run.next_submission(now, after=before, **{key: facts[key] for key in KEPT if key in facts})


def _give_up(runs: Sequence[RunDirectory], now: float) -> str:
    reason = "the submitting process died before Slurm had it; retry the sweep"
    for run in runs:
        run.record(RunState.FAILED, now, cause=Cause.BAD_SUBMISSION.value, reason=reason)
    return "failed"
