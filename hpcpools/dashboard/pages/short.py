"""Of short jobs what rq-dashboard has not: why one is in its state, and its cancelling."""

from __future__ import annotations

from flask import jsonify, render_template
from flask.typing import ResponseReturnValue

from hpcpools.dashboard.app import site
from hpcpools.lane import explain as lane
from hpcpools.short import explain as short
from hpcpools.short.enqueue import fetch


def explain(job_id: str) -> ResponseReturnValue:
    """Cause, evidence, what to do."""
    config = site().config
    fetch(config, job_id)  # an id that is none reaches no key
    facts = short.gather(config, job_id)
    return render_template("explanation.html", found=lane.explain(config, facts) or short.explain(facts))


def cancel(job_id: str) -> ResponseReturnValue:
    """Out of its queue, or killed where it runs."""
    job = fetch(site().config, job_id)
    job.cancel()
    return jsonify(status="OK", state=job.refresh().state)
