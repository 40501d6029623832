"""``scan_failed_jobs``: a verdict for every ended run, and an end to uncertain submissions."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from hpcpools import atomic
from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError, NotFoundError, RefusedError
from hpcpools.eventlog import event, log
from hpcpools.maintenance import notify
from hpcpools.maintenance.metrics import index
from hpcpools.redisdb.connect import connect
from hpcpools.runs import directory, nodes
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.states import RunState
from hpcpools.runs.view import View, read_view
from hpcpools.training import arrays, engine, restart, submit, watch


def scan(config: Config) -> dict[str, Any]:
    """Refresh, classify what ended since the last scan, settle what is still SUBMITTING."""
    runner = engine.runner(config)
    slurm = runner if runner.available() else None
    seen = watch.refresh(config, slurm)
    verdicts: Counter[str] = Counter()
    retryable = []
    judged = []
    for token in directory.ended_tokens(config.root):
        run = RunDirectory(config.root, token)
        view = _read(run)
        if view is None or not view.state.is_final:
            continue
        verdict = judge(view, time.time())
        atomic.write_json(run.verdict_file, verdict)
        judged.append((run, view))
        verdicts[verdict["cause"] or view.state.value] += 1
        if verdict["retryable"]:
            retryable.append(token)
        log.info(event("verdict", **run.ids(), state=view.state.value, cause=view.cause.value))
    index(config, connect(config), [view for _, view in judged])
    for view in seen.views:
        notify.gpu_verdicts(config, view)
    for _, view in judged:
        notify.gpu_verdicts(config, view)
        notify.run_ended(config, view)
    for node in nodes.read_nodes(config.root, time.time()):
        if node.quarantined_until is not None:
            notify.quarantined(config, node)
    for run, _ in judged:  # only now: a crash before this repeats the verdict, never loses it
        run.ended_mark.unlink(missing_ok=True)
    restarted = restart.submit_due(config, time.time()) if slurm is not None else []
    settled: Counter[str] = Counter()
    patience = max(map(float, config.slurm.submit_lookups), default=0.0) + 2 * config.slurm.command_timeout
    for token in directory.live_tokens(config.root) if slurm is not None else ():
        run = RunDirectory(config.root, token)
        try:
            view = read_view(run)
            overdue = time.time() - view.since > patience and time.time() - view.as_of > patience
            if view.state is RunState.SUBMITTING and overdue:
                settle = arrays.settle_old if view.request.sweep else submit.settle_old
                settled[settle(config, runner, run, time.time())] += 1
        except HpcpoolsError as error:
            log.warning(event("settle-fail", **run.ids(), error=error))
            settled["unknown"] += 1
    return {
        "verdicts": dict(verdicts),
        "retryable": retryable,
        "restarted": restarted,
        "settled": dict(settled),
    }


def _read(run: RunDirectory) -> View | None:
    """The view of an ended run; None if there is none, or it is of a newer version, which judges it."""
    try:
        return read_view(run)
    except NotFoundError:
        run.ended_mark.unlink(missing_ok=True)
    except RefusedError as error:
        log.warning(event("leave", **run.ids(), error=error))
    return None


def judge(view: View, at: float) -> dict[str, Any]:
    """The verdict on an ended run. Pure."""
    return {
        "at": at,
        "state": view.state.value,
        "detail": view.detail,
        "cause": view.cause.value,
        "retryable": view.state is not RunState.COMPLETED and view.cause.retryable,
        "exit_code": view.exit_code,
        "reason": view.reason,
        "attempts": len(view.attempts),
        "nodes": sorted({attempt.where for attempt in view.attempts if attempt.where}),
    }
