"""A sweep: N runs of one callable or command, planned together, sent as arrays, retried where they failed.

Owns the order: validate all, write all, then send. Refuses a sweep of which one element is wrong.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from hpcpools.catalog import Catalog
from hpcpools.config import Config
from hpcpools.errors import RefusedError, SlurmRefusedError, SlurmUnavailableError, UsageError
from hpcpools.runs import checkpoints, directory, restarts, sweeps
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Engine, Request, digest, encode
from hpcpools.runs.states import RunState
from hpcpools.runs.sweeps import Array, Definition, Element, SweepDirectory, SweepFile
from hpcpools.runs.token import new_sweep_id
from hpcpools.runs.view import View, read_view
from hpcpools.training import arrays, engine, grid, plan, submit
from hpcpools.training import environment as recorded
from hpcpools.training import snapshot as code_snapshot
from hpcpools.training.executors import ArrayExecutor
from hpcpools.training.plan import Options
from hpcpools.training.snapshot import Survey
from hpcpools.training.submit import Note

MANY = 200  # runs whose writing takes seconds


@dataclass(frozen=True)
class Planned:
    """A sweep that was checked as a whole; nothing is written yet."""

    id: str
    created: float
    definition: Definition
    requests: tuple[Request, ...]
    label: str = ""
    code: Survey | None = None  # the snapshot that all runs share


def plan_sweep(
    config: Config,
    listed: Catalog,
    definition: Definition,
    options: Options,
    engine: Engine,
    *,
    snapshot: bool | None = None,
    note: Note = lambda _text: None,
) -> Planned:
    """Every element planned as ``train`` plans one run. Raises UsageError or RefusedError, naming it.

    ``snapshot``: whether they run a copy of the code as it is now; None: as the configuration says.
    """
    grid.check(definition)
    now = time.time()
    sweep = new_sweep_id(now)
    requests = []
    for number, point in enumerate(grid.points(definition)):
        try:
            request = _plan_one(config, listed, definition, point, options, engine)
        except (UsageError, RefusedError) as error:
            raise type(error)(f"element {number}: {error.message}", hint=error.hint) from None
        requests.append(msgspec.structs.replace(request, sweep=sweep))
    ordered = sorted(
        request.token for request in requests
    )  # names and the local queue keep the points' order
    requests = [msgspec.structs.replace(r, token=t) for r, t in zip(requests, ordered, strict=True)]
    code = code_snapshot.survey(config, requests[0], snapshot, note)
    used = tuple(code_snapshot.use(request, code) for request in requests)
    return Planned(sweep, now, definition, used, options.label, code)


def _plan_one(
    config: Config,
    listed: Catalog,
    definition: Definition,
    point: dict[str, Any],
    options: Options,
    engine: Engine,
) -> Request:
    if definition.target:
        return plan.plan_callable(config, listed, definition.target, point, options=options, engine=engine)
    words = grid.fill(definition.command, point)
    request = plan.plan_command(config, words, options, engine)
    return msgspec.structs.replace(request, arguments=point)  # for the table; the command holds them


def script(config: Config, planned: Planned, size: int, parallel: int) -> str:
    """What ``sweep --dry-run`` prints: the exact script of the first array, nothing written."""
    first = planned.requests[:size]
    elements = tuple(Element(request.token, 0, digest(encode(request))) for request in first)
    array = Array(planned.id, 0, planned.created, parallel, elements)
    place = SweepDirectory(config.root, planned.id)
    env = submit.job_env(config)
    return ArrayExecutor(place, array, first[0], engine.runner(config), env).script()


def submit_sweep(config: Config, planned: Planned, note: Note = lambda _text: None) -> SweepDirectory:
    """Make every run and the sweep durable, then send them.

    Raises SlurmRefusedError or SlurmUnavailableError: nothing is left behind if no array was queued, else
    the runs of the unsent arrays are FAILED and can be retried. SubmissionUnknownError: the array's runs
    stay SUBMITTING and upkeep goes on looking.
    """
    local = planned.requests[0].engine == "local"
    count = len(planned.requests)
    sizes = [] if local else arrays.layout(config, count, planned.definition.max_parallel)
    facts = recorded.gather(config, planned.requests[0].workdir)
    code_snapshot.store(config, planned.code)
    if count > MANY:
        note(f"writing down {count} runs")
    runs: list[RunDirectory] = []
    try:
        for request in planned.requests:
            runs.append(directory.create(config.root, request))
        tokens = tuple(run.token for run in runs)
        content = SweepFile(planned.id, planned.created, planned.definition, tokens, planned.label)
        recorded.record(runs, facts)
        place = sweeps.create(config.root, content)
    except BaseException:
        _discard(SweepDirectory(config.root, planned.id), runs)
        raise
    if local:
        for run in runs:
            run.record(RunState.PENDING, time.time(), reason="waits for the local slot")
        return place
    taken = [(run, run.next_submission(time.time()) or 0) for run in runs]
    try:
        arrays.send_all(config, place, taken, sizes, planned.requests[0], note)
    except (SlurmRefusedError, SlurmUnavailableError):
        if not any(place.job_id(number) for number in place.numbers()):
            _discard(place, runs)
        raise
    return place


def _discard(place: SweepDirectory, runs: Sequence[RunDirectory]) -> None:
    for run in runs:
        directory.discard(run)
        run.ended_mark.unlink(missing_ok=True)
    sweeps.discard(place)


def failed(config: Config, place: SweepDirectory) -> list[View]:
    """What ``--retry`` submits again: the runs that ended without success, unless someone cancelled them."""
    views = [read_view(RunDirectory(config.root, token)) for token in place.read().tokens]
    return [v for v in views if v.state.is_final and v.state is not RunState.COMPLETED and not v.cancel_asked]


def retry(
    config: Config, place: SweepDirectory, views: Sequence[View], note: Note = lambda _text: None
) -> list[str]:
    """Submit ended runs again, as a new submission of each, in one new array; their tokens.

    A run that another process has taken meanwhile is left to that one. Raises like :func:`submit_sweep`.
    """
    taken = []
    for view in views:
        run = RunDirectory(config.root, view.token)
        number = take_again(run, view)
        if number is not None:
            taken.append((run, number))
    if not taken:
        return []
    request = taken[0][0].request()
    if request.engine == "local":
        for run, _ in taken:
            run.revive(time.time(), reason="waits for the local slot")
    else:
        sizes = arrays.layout(config, len(taken), place.read().definition.max_parallel)
        arrays.send_all(config, place, taken, sizes, request, note)
    return [run.token for run, _ in taken]


def take_again(run: RunDirectory, view: View) -> int | None:
    """Take the right to submit an ended run once more; None if another process has it."""
    before = run.submission(view.submission)
    facts = {name: before[name] for name in ("arguments",) if name in before}
    asked = view.request.resources
    facts["signal_lead"] = restarts.signal_lead(
        asked.signal_lead, asked.minutes, checkpoints.write_seconds(run.checkpoints)
    )
    return run.next_submission(time.time(), after=view.submission, **facts)
