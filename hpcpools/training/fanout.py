"""A sweep whose submission may have died at any moment: carried on, or withdrawn.

Owns the resumption. Every step is on record before the next one, so whoever comes after a crash finds how
far it came; the caller lets one process in at a time. Refuses to send a run that an array carries already.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from hpcpools.config import Config
from hpcpools.errors import SlurmRefusedError, SubmissionUnknownError
from hpcpools.runs import directory, sweeps
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Request
from hpcpools.runs.states import Cause, RunState
from hpcpools.runs.sweeps import SweepDirectory, SweepFile
from hpcpools.runs.view import View, read_view
from hpcpools.training import arrays, cancel, engine
from hpcpools.training import environment as recorded
from hpcpools.training.sweep import take_again

NEW = -1  # the submission before a run's first one
LOOK_AGAIN = 5.0  # seconds between two look-ups of an array that its sender left behind

Before = Mapping[str, int]  # token → its submission before this one; the sweep's other runs stay as they are


def bring(config: Config, content: SweepFile, requests: Sequence[Request], before: Before) -> None:
    """Submit the runs of ``before``, from wherever an earlier call got to.

    Raises UsageError (nothing was written), SlurmRefusedError (what was not queued is FAILED), and
    SlurmUnavailableError or SubmissionUnknownError: call again.
    """
    local = requests[0].engine == "local"
    parallel = content.definition.max_parallel
    sizes = [] if local else arrays.layout(config, len(before), parallel)
    runs = _made(config, requests, before)
    place = _recorded(config, content)
    if local:
        _queue(runs, before)
        return
    try:
        _settle(config, place)
        taken = list(_due(runs, before))
        if taken:
            sizes = sizes if len(taken) == len(before) else arrays.layout(config, len(taken), parallel)
            arrays.send_all(config, place, taken, sizes, requests[0], lambda _text: None)
    except SlurmRefusedError as error:
        _refused(place, runs, error)
        raise


def withdraw(config: Config, content: SweepFile, before: Before) -> None:
    """End what an interrupted :func:`bring` began; a run that it had not created stays uncreated.

    Raises SlurmUnavailableError or SubmissionUnknownError: call again.
    """
    now = time.time()
    place = SweepDirectory(config.root, content.id)
    runs = [run for run in _known(config, before) if run.last_submission() > before[run.token]]
    runs += [run for run in _known(config, before) if before[run.token] == NEW == run.last_submission()]
    for run in runs:
        run.cancel(now)  # from here on no node starts it
    _settle(config, place)
    for run in runs:
        if _unheard(run, run.last_submission()) and not read_view(run).state.is_final:
            run.record(RunState.CANCELLED, now, cause=Cause.CANCELLED.value, reason="never reached Slurm")
    cancel.cancel(config, runs, whole_arrays=True)


def _known(config: Config, before: Before) -> list[RunDirectory]:
    runs = [RunDirectory(config.root, token) for token in before]
    return [run for run in runs if run.run_file.exists()]


def _made(config: Config, requests: Sequence[Request], before: Before) -> list[RunDirectory]:
    """The runs of ``before``; those that are new and not there, or only half, are created."""
    wanted = [request for request in requests if request.token in before]
    runs = [RunDirectory(config.root, request.token) for request in wanted]
    missing = [
        (run, request)
        for run, request in zip(runs, wanted, strict=True)
        if before[run.token] == NEW and not run.run_file.exists()
    ]
    if missing:
        facts = recorded.gather(config, requests[0].workdir)
        for run, request in missing:
            directory.discard(run)  # what a creation that died left; Slurm has not heard of it
            directory.create(config.root, request)
            recorded.record([run], facts)
    return runs


def _recorded(config: Config, content: SweepFile) -> SweepDirectory:
    place = SweepDirectory(config.root, content.id)
    return place if place.file.exists() else sweeps.create(config.root, content)


def _queue(runs: Iterable[RunDirectory], before: Before) -> None:
    """For the local slot, which takes what is PENDING."""
    now, words = time.time(), "waits for the local slot"
    for run in runs:
        view = read_view(run)
        if view.state is RunState.SUBMITTING:
            run.record(RunState.PENDING, now, reason=words)
        elif before[run.token] != NEW:
            mine = _take(run, view, before[run.token])
            if mine is not None and not run.is_live():
                run.revive(now, reason=words)


def _settle(config: Config, place: SweepDirectory) -> None:
    """An end to every array whose sender died between its manifest and the answer of sbatch."""
    now, runner = time.time(), engine.runner(config)
    for number in place.numbers():
        array = place.array(number)
        elements = array.elements if array else ()
        runs = [RunDirectory(place.root, each.token) for each in elements if _is_open(place, each)]
        if array is None or not runs:
            continue
        for run in runs:
            view = read_view(run)
            if view.state is not RunState.SUBMITTING:
                run.revive(now, RunState.SUBMITTING)
            if view.detail != "unsettled":
                run.record(RunState.SUBMITTING, now, detail="unsettled", reason="the submitting process died")
        patience = float(config.slurm.command_timeout)
        if (
            arrays.settle(config, runner, place, array, now, look_again=LOOK_AGAIN, patience=patience)
            == "unknown"
        ):
            raise SubmissionUnknownError(
                f"nobody can say yet whether Slurm has {array.key}", hint="it is looked for again"
            )


def _is_open(place: SweepDirectory, element: sweeps.Element) -> bool:
    """True while nobody knows whether Slurm has this element: neither its id nor a start is on record."""
    run = RunDirectory(place.root, element.token)
    return (
        run.last_submission() == element.submission
        and _unheard(run, element.submission)
        and not _failed_unsent(read_view(run))
    )


def _due(runs: Iterable[RunDirectory], before: Before) -> Iterator[tuple[RunDirectory, int]]:
    """What no array carries, all arrays being settled, with the submission number that was taken for it."""
    for run in runs:
        view, last = read_view(run), run.last_submission()
        if view.cancel_asked:
            continue
        if _failed_unsent(view) and last > before[run.token]:
            number = take_again(run, view)
        else:
            number = _take(run, view, before[run.token])
        if number is not None:
            yield run, number


def _take(run: RunDirectory, view: View, before: int) -> int | None:
    """The submission after ``before``, taken now or by the process that died; None if it has gone on."""
    last = run.last_submission()
    if last == before == NEW:
        return run.next_submission(time.time(), after=before)
    if last == before:
        return take_again(run, view)
    return last if last == before + 1 and _unheard(run, last) else None


def _refused(place: SweepDirectory, runs: Iterable[RunDirectory], error: SlurmRefusedError) -> None:
    """Also what was not tried any more has failed; an array that is still in doubt stays so."""
    found = filter(None, map(place.array, place.numbers()))
    carried = {(each.token, each.submission) for array in found for each in array.elements}
    for run in runs:
        last = run.last_submission()
        unsent = (run.token, last) not in carried and _unheard(run, last)
        if unsent and not read_view(run).state.is_final:
            words = f"not sent: {error.message}"
            run.record(RunState.FAILED, time.time(), cause=Cause.BAD_SUBMISSION.value, reason=words)


def _unheard(run: RunDirectory, number: int) -> bool:
    return run.job(number) is None and run.owner(number) is None


def _failed_unsent(view: View) -> bool:
    """True if it ended because it could not be sent: also what upkeep says of a sender that died."""
    return view.state is RunState.FAILED and view.cause is Cause.BAD_SUBMISSION
