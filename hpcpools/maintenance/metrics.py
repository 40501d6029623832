"""``update_job_metrics``: look at Slurm once for all runs, and write what is known into the index."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from hpcpools.config import Config
from hpcpools.errors import RefusedError
from hpcpools.redisdb import keys
from hpcpools.runs import directory, metrics
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.view import View, read_view
from hpcpools.training import watch

if TYPE_CHECKING:
    from redis import Redis


def update(config: Config) -> dict[str, Any]:
    """Refresh all live runs and index them; a wiped index is rebuilt from the run directories."""
    from hpcpools.redisdb.connect import connect

    seen = watch.current(config)
    views = {view.token: view for view in (*seen.views, *seen.ended)}
    connection = connect(config)
    # What another process saw end is on the ended list; a wiped index is rebuilt from all directories.
    whole = not connection.exists(keys.INDEX)
    more = directory.tokens(config.root) if whole else directory.ended_tokens(config.root)
    for token in more:
        if token not in views:
            with contextlib.suppress(RefusedError):  # of a newer version: `hpcpools reconcile` names it
                views[token] = read_view(RunDirectory(config.root, token))
    index(config, connection, list(views.values()))
    states = Counter(view.state.value for view in views.values())
    return {"runs": len(views), "states": dict(states), "slurm_as_of": seen.as_of, "error": seen.error}


def index(config: Config, connection: Redis, views: list[View]) -> None:
    """Write ``views`` into the index; it holds nothing that the run directories do not."""
    now = time.time()
    rows = {view.token: row(config, view, now) for view in views}
    with connection.pipeline(transaction=True) as pipeline:
        if rows:
            pipeline.hset(keys.INDEX, mapping=rows)  # type: ignore[arg-type]
        pipeline.set(keys.INDEX_AS_OF, now)
        pipeline.execute()


def row(config: Config, view: View, now: float) -> str:
    """One run's value in the index."""
    from hpcpools.maintenance.measures import measured  # not for those who only want a summary

    run = RunDirectory(config.root, view.token)
    return json.dumps(_summary(run, view) | measured(run, view, now))


def forget(config: Config, tokens: list[str]) -> None:
    """Take removed runs out of the index, if there is one now."""
    from hpcpools.errors import HpcpoolsError
    from hpcpools.redisdb.connect import connect
    from hpcpools.redisdb.outage import told

    with contextlib.suppress(HpcpoolsError), told():
        connection = connect(config)
        for start in range(0, len(tokens), 1000):
            connection.hdel(keys.INDEX, *tokens[start : start + 1000])


def summary(config: Config, view: View) -> dict[str, Any]:
    """One run in the index and in ``--json`` outputs."""
    return _summary(RunDirectory(config.root, view.token), view)


def _summary(run: RunDirectory, view: View) -> dict[str, Any]:
    progress = metrics.progress(run.metrics_file)
    return {
        "run": view.token,
        "state": view.state.value,
        "detail": view.detail,
        "cause": view.cause.value,
        "reason": view.reason,
        "exit_code": view.exit_code,
        "since": view.since,
        "as_of": view.as_of,
        "engine": view.request.engine,
        "what": view.request.what,
        "label": view.request.label,
        "partition": view.request.resources.partition,
        "gpus": view.request.resources.gpus,
        "nodes": view.request.resources.nodes,
        "minutes": view.request.resources.minutes,
        "created": view.request.created,
        "job_id": view.job_id,
        "node": view.attempt.where if view.attempt else "",
        "attempts": len(view.attempts),
        "step": progress.step if progress else None,
        "total": progress.total if progress else None,
        "metrics": progress.values if progress else {},
        "metrics_at": progress.at if progress else None,
    }
