"""``update_job_metrics``: look at Slurm once for all runs, and write what is known into the index."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from hpcpools.config import Config
from hpcpools.redisdb import keys
from hpcpools.redisdb.connect import connect
from hpcpools.runs import directory, metrics
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.view import View, read_view
from hpcpools.training import engine, watch

if TYPE_CHECKING:
    from redis import Redis


def update(config: Config) -> dict[str, Any]:
    """Refresh all live runs and index them; a wiped index is rebuilt from the run directories."""
    runner = engine.runner(config)
    seen = watch.refresh(config, runner if runner.available() else None)
    views = {view.token: view for view in (*seen.views, *seen.ended)}
    connection = connect(config)
    # What another process saw end is on the ended list; a wiped index is rebuilt from all directories.
    whole = not connection.exists(keys.INDEX)
    more = directory.tokens(config.root) if whole else directory.ended_tokens(config.root)
    for token in more:
        if token not in views:
            views[token] = read_view(RunDirectory(config.root, token))
    index(config, connection, list(views.values()))
    states = Counter(view.state.value for view in views.values())
    return {"runs": len(views), "states": dict(states), "slurm_as_of": seen.as_of, "error": seen.error}


def index(config: Config, connection: Redis, views: list[View]) -> None:
    """Write ``views`` into the index; it holds nothing that the run directories do not."""
    rows = {view.token: json.dumps(summary(config, view)) for view in views}
    with connection.pipeline(transaction=True) as pipeline:
        if rows:
            pipeline.hset(keys.INDEX, mapping=rows)  # type: ignore[arg-type]
        pipeline.set(keys.INDEX_AS_OF, time.time())
        pipeline.execute()


def summary(config: Config, view: View) -> dict[str, Any]:
    """One run in the index and in ``--json`` outputs."""
    progress = metrics.progress(RunDirectory(config.root, view.token).metrics_file)
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
        "minutes": view.request.resources.minutes,
        "created": view.request.created,
        "job_id": view.job_id,
        "node": view.attempt.node if view.attempt else "",
        "attempts": len(view.attempts),
        "step": progress.step if progress else None,
        "total": progress.total if progress else None,
        "metrics": progress.values if progress else {},
        "metrics_at": progress.at if progress else None,
    }
