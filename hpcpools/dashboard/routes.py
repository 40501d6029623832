"""Which address leads to which page, and which takes POST because it changes something."""

from __future__ import annotations

from collections.abc import Callable

from flask import Flask
from flask.typing import ResponseReturnValue

from hpcpools.dashboard.pages import nodes, overview, pipelines, run, runs, schedule, short, sweeps

Pages = dict[str, tuple[str, Callable[..., ResponseReturnValue]]]  # address → endpoint, view


def register(app: Flask) -> None:
    """Give ``app`` its pages."""
    pages: Pages = {
        "/": ("overview", overview.overview),
        "/runs": ("runs", runs.runs),
        "/runs/<token>": ("run", run.run),
        "/runs/<token>/series": ("series", run.series),
        "/runs/<token>/log": ("log", run.log),
        "/runs/<token>/explain": ("explain", run.explain),
        "/sweeps": ("sweeps", sweeps.sweeps),
        "/sweeps/<name>": ("sweep", sweeps.sweep),
        "/pipelines": ("pipelines", pipelines.pipelines),
        "/pipelines/<name>": ("pipeline", pipelines.pipeline),
        "/schedule": ("schedule", schedule.schedule),
        "/nodes": ("nodes", nodes.nodes),
        "/jobs/<job_id>/explain": ("explain_job", short.explain),
    }
    changes: Pages = {
        "/runs/<token>/cancel": ("cancel_run", run.cancel),
        "/runs/<token>/requeue": ("requeue_run", run.requeue),
        "/jobs/<job_id>/cancel": ("cancel_job", short.cancel),
        "/sweeps/<name>/cancel": ("cancel_sweep", sweeps.cancel),
        "/sweeps/<name>/retry": ("retry_sweep", sweeps.retry),
        "/pipelines/<name>/cancel": ("cancel_pipeline", pipelines.cancel),
        "/pipelines/<name>/retry": ("retry_pipeline", pipelines.retry),
        "/schedule/<name>/pause": ("pause_schedule", schedule.pause),
        "/schedule/<name>/resume": ("resume_schedule", schedule.resume),
        "/schedule/<name>/run-now": ("run_schedule", schedule.run_now),
    }
    for rule, (name, view) in pages.items():
        app.add_url_rule(rule, name, view, methods=["GET"])
    for rule, (name, view) in changes.items():
        app.add_url_rule(rule, name, view, methods=["POST"])
