"""Bringing pipelines forward: collect what ended, decide, give what is ready to its pool.

Anyone may do this at any time, also at once: what is given to a pool is fixed in a file first, under ids
that stay. Owns the effects; the decision is ``decide``'s.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hpcpools import atomic, catalog
from hpcpools.catalog import Catalog
from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError, RefusedError, RunFailedError, UsageError, WaitTimeoutError
from hpcpools.pipeline import definition as defining
from hpcpools.pipeline import record as recording
from hpcpools.pipeline import stageruns
from hpcpools.pipeline.call import Call
from hpcpools.pipeline.decide import Fact, StageState, Standing, overall, standings
from hpcpools.pipeline.definition import Definition
from hpcpools.pipeline.record import Header, PipelineRecord
from hpcpools.textsafe import one_line
from hpcpools.training import engine, watch

WAIT_STEP = 0.5  # seconds between two steps of a waiting command


@dataclass(frozen=True)
class Snapshot:
    """A pipeline as its files tell; ``tries`` and ``standings`` by stage.

    ``again``: the stages whose newest try repeats only what failed of the one before.
    """

    header: Header
    state: str
    cancelled: bool
    tries: Mapping[str, int]
    standings: Mapping[str, Standing]
    again: frozenset[str] = frozenset()


def start(config: Config, definition: Definition, where: str) -> PipelineRecord:
    """Check everything, write it down, submit the first stages.

    Raises ConfigError (nothing was written) naming the file and the stage.
    """
    pools = check(config, definition, where)
    record = recording.create(config.root, definition, where, pools)
    with contextlib.suppress(HpcpoolsError):  # it is on record: whoever advances it next goes on
        advance(config, record)
    return record


def check(config: Config, definition: Definition, where: str) -> dict[str, str]:
    """The pool of each stage, once everything fits. Raises ConfigError."""
    listed = catalog.load(config)
    defining.check(config, listed, definition, where, engine.choose(config))
    return {
        name: "training" if listed.get(definition.stages[name].task).is_training else "short"
        for name in defining.order(definition)
    }


def snapshot(record: PipelineRecord) -> Snapshot:
    """Where it stands by its files alone: no Redis, no Slurm."""
    header, wishes = record.header(), record.wishes()
    tries, again = dict.fromkeys(header.definition.stages, 1), set[str]()
    for wish in wishes:
        for name in wish.get("retry", ()):
            tries[name] += 1
        again = again - set(wish.get("retry", ())) | set(wish.get("again", ()))
    cancelled = bool(wishes) and "cancel" in wishes[-1]
    facts = {name: _fact(record, name, number) for name, number in tries.items()}
    found = standings(header.definition, facts, cancelled=cancelled)
    state = overall(header.definition, found, cancelled=cancelled)
    return Snapshot(header, state, cancelled, tries, found, frozenset(again))


def advance(config: Config, record: PipelineRecord) -> Snapshot:
    """Do all that can be done now; idempotent. Raises what Redis and Slurm raise, then simply call again."""
    for _ in range(defining.MAX_STAGES + 1):
        before = snapshot(record)
        problem = _step(config, record, before)
        after = snapshot(record)
        if problem is not None and after.standings == before.standings:
            raise problem
        if after.standings == before.standings:
            break
    if after.state != "RUNNING":
        record.close()
        if snapshot(record).state == "RUNNING":  # a wish, or a slower process's submission, came between
            record.open()
    return after


def advance_all(config: Config) -> dict[str, Any]:
    """Every pipeline that is not final, for upkeep; one that has a problem does not stop the others."""
    names = recording.live_ids(config.root)
    if names:
        runner = engine.runner(config)
        watch.refresh(config, runner if runner.available() else None)
    states: dict[str, str] = {}
    problems = []
    for name in names:
        try:
            states[name] = advance(config, PipelineRecord(config.root, name)).state
        except (HpcpoolsError, OSError, ValueError) as error:
            problems.append(one_line(f"{name}: {error}"))
    return {"pipelines": states, "problems": problems[:20]}


def wait(
    config: Config,
    record: PipelineRecord,
    timeout: float | None = None,
    heed: Callable[[Snapshot, str], None] = lambda _seen, _problem: None,
) -> Snapshot:
    """Advance until it is final; ``heed`` hears where it stands and what is in the way.

    Raises WaitTimeoutError.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        problem = ""
        try:
            runner = engine.runner(config)
            watch.refresh(config, runner if runner.available() else None)
            seen = advance(config, record)
        except HpcpoolsError as error:
            problem, seen = str(error), snapshot(record)
        heed(seen, problem)
        if seen.state != "RUNNING":
            return seen
        if deadline is not None and time.monotonic() >= deadline:
            raise WaitTimeoutError(
                f"{record.id} is still running", hint=f"it goes on; `hpcpools pipeline explain {record.id}`"
            )
        time.sleep(WAIT_STEP)


def cancel(config: Config, record: PipelineRecord) -> Snapshot:
    """Start nothing more and end what runs; on record first, so upkeep ends what does not answer now."""
    if snapshot(record).state == "RUNNING":
        record.wish({"cancel": True, "at": time.time()})
        with contextlib.suppress(HpcpoolsError):
            return advance(config, record)
    return snapshot(record)


def retry(config: Config, record: PipelineRecord, stage: str = "") -> Snapshot:
    """Try again what did not succeed, or ``stage`` and all that comes after it. Raises UsageError.

    Of a sweep that failed only the failed runs, unless ``stage`` says so or its arguments may change.
    """
    seen = snapshot(record)
    chosen = to_retry(seen, stage)
    again = [] if stage else [name for name in chosen if _keeps_its_input(seen, name, chosen)]
    record.wish({"retry": chosen, "again": again, "at": time.time()})
    with contextlib.suppress(HpcpoolsError):
        return advance(config, record)
    return snapshot(record)


def to_retry(seen: Snapshot, stage: str = "") -> list[str]:
    """The stages that a retry begins anew. Pure. Raises UsageError if there is nothing to try."""
    definition = seen.header.definition
    if seen.state == "RUNNING":
        raise UsageError(f"{seen.header.id} is still running", hint="cancel it first, or wait for its end")
    if stage and stage not in definition.stages:
        raise UsageError(
            f"{one_line(stage)!r} is no stage", hint=f"stages: {', '.join(defining.order(definition))}"
        )
    if stage:
        names = defining.descendants(definition, stage)
    else:
        bad = (StageState.FAILED, StageState.CANCELLED)
        roots = [name for name, standing in seen.standings.items() if standing.state in bad]
        names = {name for root in roots for name in defining.descendants(definition, root)}
    if not names:
        raise UsageError(
            f"every stage of {seen.header.id} succeeded", hint="--from STAGE repeats them anyway"
        )
    return sorted(names)


def _keeps_its_input(seen: Snapshot, name: str, chosen: list[str]) -> bool:
    stage = seen.header.definition.stages[name]
    failed = seen.standings[name].state is StageState.FAILED
    return bool(stage.sweep) and failed and not set(chosen) & defining.edges(stage).keys()


def result(record: PipelineRecord, stage: str) -> Any:
    """What a stage returned; a list for a sweep. Raises UsageError, RunFailedError."""
    seen = snapshot(record)
    if stage not in seen.standings:
        raise UsageError(f"{one_line(stage)!r} is no stage", hint=f"stages: {', '.join(seen.standings)}")
    standing = seen.standings[stage]
    if standing.state is not StageState.COMPLETED:
        raise RunFailedError(
            f"{stage} is {standing.state.value}: {standing.why}", hint="wait for it, or retry"
        )
    return _value(record, seen, defining.Reference(stage))


def results(record: PipelineRecord) -> dict[str, Any]:
    """What each stage returned; None for one that the pipeline did without. Raises RunFailedError."""
    seen = snapshot(record)
    if seen.state != "COMPLETED":
        raise RunFailedError(f"{record.id} is {seen.state}", hint=f"`hpcpools pipeline explain {record.id}`")
    return {name: _value(record, seen, defining.Reference(name)) for name in seen.standings}


def _fact(record: PipelineRecord, stage: str, number: int) -> Fact:
    if done := atomic.read_json(record.done_file(stage, number)):
        return Fact(True, str(done["ended"]), one_line(str(done.get("reason") or "")))
    return Fact(record.submit_file(stage, number).exists())


def _step(config: Config, record: PipelineRecord, seen: Snapshot) -> HpcpoolsError | None:
    """One round over all stages; the first problem that another round may not have."""
    problem: HpcpoolsError | None = None
    for name, standing in seen.standings.items():
        try:
            if standing.state is StageState.READY:
                _submit(config, record, seen, name)
            elif standing.state is StageState.RUNNING:
                _tend(config, record, seen, name)
        except HpcpoolsError as error:
            problem = problem or error
    return problem


def _submit(config: Config, record: PipelineRecord, seen: Snapshot, name: str) -> None:
    """Fix what this try runs, then give it to its pool; a wrong value fails the stage."""
    number = seen.tries[name]
    listed = catalog.load(config)
    try:
        _write(config, listed, record, seen, name)
    except (UsageError, RefusedError) as error:
        _done(record, name, number, {"ended": "failed", "reason": str(error)})
        return
    record.open()  # it may have been cancelled, and closed, since ``seen``
    _tend(config, record, seen, name)


def _write(config: Config, listed: Catalog, record: PipelineRecord, seen: Snapshot, name: str) -> None:
    stage, number = seen.header.definition.stages[name], seen.tries[name]
    if name in seen.again and stageruns.write_again(record, name, number):
        return
    arguments = defining.fill(stage.arguments, lambda reference: _value(record, seen, reference))
    file = record.submit_file(name, number)
    entry = listed.get(stage.task)
    if entry.is_training:
        stageruns.write(config, listed, file, stage, arguments, f"{record.id[:10]}.{name}")
    else:
        catalog.check_arguments(entry, arguments)
        Call(file, record.job_id(name, number)).write(entry, config, arguments)


def _tend(config: Config, record: PipelineRecord, seen: Snapshot, name: str) -> None:
    """Make sure that the pool has it (or, if cancelled, ends it); write its end down once it is known."""
    number = seen.tries[name]
    file = record.submit_file(name, number)
    if stageruns.is_one(file):
        end = stageruns.tend(config, record, file, cancelled=seen.cancelled)
        if end is not None:
            _done(record, name, number, end)
        return
    call = Call(file, record.job_id(name, number))
    if seen.cancelled:
        call.cancel(config)
    call.look(config)


def _done(record: PipelineRecord, stage: str, number: int, end: dict[str, Any]) -> None:
    atomic.create_json(record.done_file(stage, number), {"at": time.time(), **end})


def _value(record: PipelineRecord, seen: Snapshot, reference: defining.Reference) -> Any:
    """What a reference stands for now; None for a stage that did not succeed.

    Raises UsageError if its result has no such key.
    """
    done = atomic.read_json(record.done_file(reference.stage, seen.tries[reference.stage])) or {}
    if "runs" not in done:
        return _pick(done.get("result"), reference) if done.get("ended") == "completed" else None
    values = [
        stageruns.value(record.root, run, reference) if run["ended"] == "completed" else None
        for run in done["runs"]
    ]
    picked = [value if value is None else _pick(value, reference) for value in values]
    return picked if seen.header.definition.stages[reference.stage].sweep else picked[0]


def _pick(value: Any, reference: defining.Reference) -> Any:
    for key in filter(None, reference.key.split(".")):
        try:
            value = value[int(key)] if isinstance(value, list) else value[key]
        except (KeyError, IndexError, TypeError, ValueError):
            raise UsageError(
                f"the result of {reference.stage} has no {one_line(reference.key)!r}",
                hint="return it as a key of a dict, or correct the reference",
            ) from None
    return value
