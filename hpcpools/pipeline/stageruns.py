"""The runs of a training stage: one, or one per point of its sweep; submitted once, ended by our records.

Tokens, requests and the sweep's id are fixed in the stage's submit file, so a crash at any moment is
healed by looking them up. Refuses to ask Slurm about a stage: a run's own directory is the truth.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from hpcpools import atomic
from hpcpools.catalog import Catalog
from hpcpools.config import Config
from hpcpools.errors import SlurmRefusedError, SlurmUnavailableError, SubmissionUnknownError, UsageError
from hpcpools.pipeline import definition as defining
from hpcpools.pipeline.definition import Stage
from hpcpools.pipeline.record import PipelineRecord
from hpcpools.runs import checkpoints, directory
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Request, decode, encode
from hpcpools.runs.states import Cause, RunState
from hpcpools.runs.sweeps import Definition, SweepFile
from hpcpools.runs.view import View, read_view
from hpcpools.training import cancel as cancelling
from hpcpools.training import engine, fanout, plan, snapshot, submit
from hpcpools.training import sweep as sweeping

_ENDED = {RunState.COMPLETED: "completed", RunState.CANCELLED: "cancelled"}  # all others: failed


def write(
    config: Config, listed: Catalog, file: Path, stage: Stage, arguments: dict[str, Any], label: str
) -> None:
    """Plan every run and fix the requests; the first writer decides. Raises UsageError, RefusedError."""
    where, asked = engine.choose(config), defining.options(stage)
    options = plan.Options(**{**vars(asked), "label": label})
    if not stage.sweep:
        request = plan.plan_callable(config, listed, stage.task, arguments, options=options, engine=where)
        frozen = snapshot.freeze(config, [request])  # the code as it is when the stage starts
        _fix(file, frozen)
        return
    asked_for = Definition(stage.task, arguments, stage.sweep, max_parallel=stage.max_parallel or 0)
    planned = sweeping.plan_sweep(config, listed, asked_for, options, where)
    snapshot.store(config, planned.code)
    tokens_ = tuple(request.token for request in planned.requests)
    content = SweepFile(planned.id, planned.created, planned.definition, tokens_, label)
    before = dict.fromkeys(tokens_, fanout.NEW)
    _fix(file, planned.requests, sweep=msgspec.to_builtins(content), key=planned.id, before=before, tries={})


def write_again(record: PipelineRecord, stage: str, number: int) -> bool:
    """Fix that try ``number`` sends again what failed of the sweep before; False if it cannot.

    It cannot where a run was cancelled, for good, or is not there any more.
    """
    facts = atomic.read_json(record.submit_file(stage, number - 1)) or {}
    if "sweep" not in facts:
        return False
    before = {}
    for token in facts["sweep"]["tokens"]:
        end = atomic.read_json(_end_file(record, facts, token)) or {}
        if end.get("ended") == "completed":
            continue
        run = RunDirectory(record.root, token)
        if not run.run_file.exists() or (view := read_view(run)).cancel_asked:
            return False
        failed = view.state.is_final and view.state is not RunState.COMPLETED
        before[token] = view.submission - (not failed)  # else somebody has sent it again by hand
    again = {
        **{name: facts[name] for name in ("runs", "sweep")},
        "at": time.time(),
        "key": f"{facts['sweep']['id']}.{number}",
        "before": before,
        "tries": {**facts["tries"], **dict.fromkeys(before, number)},
    }
    if before:
        atomic.create_json(record.submit_file(stage, number), again)
    return bool(before)


def _fix(file: Path, requests: Sequence[Request], **more: Any) -> None:
    runs = [encode(each).decode() for each in requests]
    atomic.create_json(file, {"at": time.time(), "runs": runs, **more})


def is_one(file: Path) -> bool:
    """True for the submit file of a training stage."""
    return "runs" in (atomic.read_json(file) or {})


def tokens(file: Path) -> list[str]:
    """The runs of a stage, in the order of its sweep."""
    return [request.token for request in _requests(atomic.read_json(file) or {})]


def sweep_id(file: Path) -> str:
    """The sweep that a stage's runs are the elements of; "" if it has none."""
    facts = atomic.read_json(file) or {}
    return str(facts["sweep"]["id"]) if "sweep" in facts else ""


def _requests(facts: dict[str, Any]) -> list[Request]:
    return [decode(text.encode()) for text in facts.get("runs", ())]


def _end_file(record: PipelineRecord, facts: dict[str, Any], token: str) -> Path:
    """Where the end of a run is written down: by the try that sent it last."""
    number = facts.get("tries", {}).get(token)
    return record.path / (f"{token}.{number}.end.json" if number else f"{token}.end.json")


def tend(config: Config, record: PipelineRecord, file: Path, *, cancelled: bool) -> dict[str, Any] | None:
    """Submit what is not submitted, cancel what is to end; how the stage ended, once all of it has.

    Looks only at runs that have not ended and are off the live list, so a large sweep stays cheap.
    Raises SlurmUnavailableError: nothing is lost, the next call goes on.
    """
    facts = atomic.read_json(file) or {}
    requests = _requests(facts)
    names = set(os.listdir(record.path))
    if "sweep" in facts and f"{facts['key']}.sent.json" not in names:
        if not _submit_all(config, record, facts, requests, cancelled=cancelled):
            return None
        names = set(os.listdir(record.path))
    live = set(directory.live_tokens(config.root))
    waiting, running = 0, []
    for request in requests:
        run, end_file = RunDirectory(config.root, request.token), _end_file(record, facts, request.token)
        if end_file.name in names:
            continue
        if "sweep" not in facts and f"{run.token}.sent.json" not in names:
            _submit(config, record, request, run, end_file, cancelled=cancelled)
        if run.token not in live and run.run_file.exists():
            view = read_view(run)
            if is_settled(config.root, view):
                atomic.create_json(end_file, _end(run, view))
        if not end_file.exists():
            waiting += 1
            running += [run] if run.run_file.exists() and not run.cancelled() else []
    if cancelled and running:
        cancelling.cancel(config, running, whole_arrays="sweep" in facts)
    if waiting:
        return None
    return _together([dict(atomic.read_json(_end_file(record, facts, each.token))) for each in requests])  # type: ignore[arg-type]


def _submit_all(
    config: Config, record: PipelineRecord, facts: dict[str, Any], requests: list[Request], *, cancelled: bool
) -> bool:
    """Hand the whole sweep over; True once its pool has it, or it was withdrawn. One process at a time.

    Not marked as sent until every run is carried by an array: whoever comes after a crash, or after Slurm
    did not answer, goes on from what is on record.
    """
    key, before = facts["key"], facts["before"]
    if not record.claim(key):
        return False
    content = msgspec.convert(facts["sweep"], SweepFile)
    reason = "before it was submitted"
    try:
        if cancelled:
            fanout.withdraw(config, content, before)
        else:
            fanout.bring(config, content, requests, before)
    except (SlurmRefusedError, UsageError) as error:
        reason = str(error)
    except BaseException:
        record.release(key)
        raise
    for token in before:
        if not RunDirectory(config.root, token).run_file.exists():
            end = {"token": token, "ended": "cancelled" if cancelled else "failed", "reason": reason}
            atomic.create_json(_end_file(record, facts, token), end)
    atomic.create_bytes(record.path / f"{key}.sent.json", b"{}\n")
    return True


def is_settled(root: Path, view: View) -> bool:
    """True if the run ended for good. An end that only the node has told may yet become a restart; once
    it is recorded as final, which takes the live mark away, it stays."""
    return view.state is RunState.COMPLETED or (
        view.state.is_final and not (root / ".live" / view.token).exists()
    )


def _submit(
    config: Config,
    record: PipelineRecord,
    request: Request,
    run: RunDirectory,
    end_file: Path,
    *,
    cancelled: bool,
) -> None:
    """Once: the claim is ours while we live, so whoever finds it abandoned knows that we died on the way."""
    if not record.claim(request.token):
        return
    if run.run_file.exists():
        _heal(config, request, run)
    elif cancelled:
        facts = {"token": run.token, "ended": "cancelled", "reason": "before it was submitted"}
        atomic.create_json(end_file, facts)
    else:
        directory.discard(run)  # what a creation that died left; Slurm has not heard of it
        try:
            submit.submit(config, request)
        except SlurmUnavailableError:  # nothing was queued
            record.release(request.token)
            raise
        except SlurmRefusedError as error:
            atomic.create_json(end_file, {"token": run.token, "ended": "failed", "reason": str(error)})
        except SubmissionUnknownError:
            pass  # the run stays SUBMITTING, and upkeep settles it
    atomic.create_bytes(record.path / f"{run.token}.sent.json", b"{}\n")


def _heal(config: Config, request: Request, run: RunDirectory) -> None:
    """Its directory is there, but who made it died: go on from where it came to."""
    view, now = read_view(run), time.time()
    if view.state is RunState.FAILED and view.cause is Cause.BAD_SUBMISSION:
        run.revive(now, RunState.SUBMITTING)  # upkeep came first, and gave it up
    elif view.state is not RunState.SUBMITTING:
        return
    if request.engine == "local":
        run.record(RunState.PENDING, now, reason="waits for the local slot")
    elif view.detail != "unsettled":  # an unsettled one is upkeep's
        run.record(RunState.SUBMITTING, now, detail="unsettled", reason="the submitting process died")
        submit.settle_old(config, engine.runner(config), run, now)


def _end(run: RunDirectory, view: View) -> dict[str, Any]:
    good = view.state is RunState.COMPLETED
    end: dict[str, Any] = {"token": view.token, "ended": _ENDED.get(view.state, "failed")}
    if good:
        end["result"] = atomic.read_json(run.result_file)
    else:
        words = (view.state.value, view.cause.value, view.reason)
        end["reason"] = ": ".join(word for word in words if word)
    return end


def _together(ends: list[dict[str, Any]]) -> dict[str, Any]:
    """One end of many: failed if one failed, cancelled if one was, else completed."""
    words = {end["ended"] for end in ends}
    ended = next(word for word in ("failed", "cancelled", "completed") if word in words)
    bad = [f"{end['token']} {end.get('reason', '')}".strip() for end in ends if end["ended"] != "completed"]
    more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
    return {"ended": ended, "runs": ends, "reason": f"{bad[0]}{more}" if bad else ""}


def value(root: Path, end: dict[str, Any], reference: defining.Reference) -> Any:
    """What a reference to one run's end stands for; a checkpoint's path is None if there is none."""
    run = RunDirectory(root, end["token"])
    if reference.of == "token":
        return run.token
    if reference.of == "directory":
        return str(run.path)
    if reference.of == "checkpoint":
        found = checkpoints.complete(run.checkpoints)
        return str(found[-1].path) if found else None
    return end["result"]
