"""The runs of a training stage: one, or one per point of its sweep; submitted once, ended by our records.

A run's token and request are fixed in the stage's submit file, so a crash at any moment is healed by
looking that token up. Refuses to ask Slurm about a stage: a run's own directory is the truth.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from hpcpools import atomic
from hpcpools.catalog import Catalog
from hpcpools.config import Config
from hpcpools.errors import SlurmRefusedError, SubmissionUnknownError
from hpcpools.pipeline import definition as defining
from hpcpools.pipeline.definition import Stage
from hpcpools.pipeline.record import PipelineRecord
from hpcpools.runs import checkpoints, directory
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Request, decode, encode
from hpcpools.runs.states import RunState
from hpcpools.runs.view import View, read_view
from hpcpools.training import cancel as cancelling
from hpcpools.training import engine, plan, snapshot, submit

_ENDED = {RunState.COMPLETED: "completed", RunState.CANCELLED: "cancelled"}  # all others: failed


def write(
    config: Config, listed: Catalog, file: Path, stage: Stage, arguments: dict[str, Any], label: str
) -> None:
    """Plan every run and fix the requests; the first writer decides. Raises UsageError, RefusedError."""
    where, asked = engine.choose(config), defining.options(stage)
    options = plan.Options(**{**vars(asked), "label": label})
    requests = [
        plan.plan_callable(config, listed, stage.task, {**arguments, **point}, options=options, engine=where)
        for point in stage.points()
    ]
    frozen = snapshot.freeze(config, requests)  # the code as it is when the stage starts
    atomic.create_json(file, {"at": time.time(), "runs": [encode(each).decode() for each in frozen]})


def is_one(file: Path) -> bool:
    """True for the submit file of a training stage."""
    return "runs" in (atomic.read_json(file) or {})


def tokens(file: Path) -> list[str]:
    """The runs of a stage, in the order of its sweep."""
    return [request.token for request in _requests(file)]


def _requests(file: Path) -> list[Request]:
    facts = atomic.read_json(file) or {}
    return [decode(text.encode()) for text in facts.get("runs", ())]


def tend(config: Config, record: PipelineRecord, file: Path, *, cancelled: bool) -> dict[str, Any] | None:
    """Submit what is not submitted, cancel what is to end; how the stage ended, once all of it has.

    Looks only at runs that have not ended and are off the live list, so a large sweep stays cheap.
    Raises SlurmUnavailableError: nothing is lost, the next call goes on.
    """
    names = set(os.listdir(record.path))
    live = set(directory.live_tokens(config.root))
    waiting, running = 0, []
    for request in _requests(file):
        run = RunDirectory(config.root, request.token)
        end_file = record.path / f"{run.token}.end.json"
        if end_file.name in names:
            continue
        if f"{run.token}.sent.json" not in names:
            _submit(config, record, request, run, end_file, cancelled=cancelled)
        if run.token not in live and run.run_file.exists():
            view = read_view(run)
            if is_settled(config.root, view):
                atomic.create_json(end_file, _end(run, view))
        if not end_file.exists():
            waiting += 1
            running += [run] if run.run_file.exists() and not run.cancelled() else []
    if cancelled and running:
        cancelling.cancel(config, running)
    if waiting:
        return None
    return _together([dict(atomic.read_json(record.path / f"{token}.end.json")) for token in tokens(file)])  # type: ignore[arg-type]


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
        except SlurmRefusedError as error:
            atomic.create_json(end_file, {"token": run.token, "ended": "failed", "reason": str(error)})
        except SubmissionUnknownError:
            pass  # the run stays SUBMITTING, and upkeep settles it
    atomic.create_bytes(record.path / f"{run.token}.sent.json", b"{}\n")


def _heal(config: Config, request: Request, run: RunDirectory) -> None:
    """Its directory is there, but who made it died: go on from where it came to."""
    view = read_view(run)
    if view.state is not RunState.SUBMITTING:
        return
    now = time.time()
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
