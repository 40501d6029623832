"""One run: its facts, attempts, timeline, curves, log, checkpoints, and the two buttons."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import zip_longest

from flask import jsonify, render_template, request
from flask.typing import ResponseReturnValue

from hpcpools import atomic
from hpcpools.dashboard import logtail
from hpcpools.dashboard.app import done, site
from hpcpools.errors import NotFoundError, RefusedError
from hpcpools.maintenance.metrics import summary
from hpcpools.runs import checkpoints, curves, restarts, telemetry, usage
from hpcpools.runs.directory import RunDirectory, open_run
from hpcpools.runs.states import RunState
from hpcpools.runs.token import check_token
from hpcpools.runs.view import View, read_view
from hpcpools.services import control
from hpcpools.training import cancel as cancelling
from hpcpools.training import findings
from hpcpools.training import retry as again
from hpcpools.training.explain import explain as decide

WIDTH = 1000.0  # of the timeline's own coordinates
EVENTS = 40
CHECKPOINTS = 25
LEGEND = (
    ("wait", "waiting"),
    ("busy", "running"),
    ("good", "completed"),
    ("bad", "failed"),
    ("warn", "stopped"),
)


@dataclass(frozen=True)
class Span:
    """A stretch of the timeline, from ``left`` to ``left + width`` of a thousand."""

    left: float
    width: float
    tone: str
    title: str


def _open(token: str) -> RunDirectory:
    return open_run(site().config.root, check_token(token))


def run(token: str) -> str:
    """Everything known of it."""
    here = site()
    here.table.want()
    found = _open(token)
    view = read_view(found)
    live = next((row for row in here.table.live() if row.run == token), None)
    now = time.time()
    until = view.since if view.state.is_final else now
    saved = checkpoints.complete(found.checkpoints)
    facts = [found.submission(number) for number in range(view.submission + 1)]
    used = restarts.used(facts, view.attempts)
    verdict = atomic.read_json(found.verdict_file)
    spans = timeline(view, now)
    return render_template(
        "run.html",
        view=view,
        row=summary(here.config, view),
        as_of=now if view.request.engine == "local" else max(view.as_of, live.as_of if live else 0.0),
        spans=spans,
        legend=[(tone, word) for tone, word in LEGEND if any(span.tone == tone for span in spans)],
        began=view.request.created,
        until=until,
        events=list(reversed(found.events()))[:EVENTS],
        checkpoints=list(reversed(saved))[:CHECKPOINTS],
        saved=len(saved),
        gpu=telemetry.usage(usage.closed(found, view, now), view.request.resources.all_gpus, until),
        restarts=[
            (kind, n, restarts.budget_of(view.request.restarts, kind)) for kind, n in sorted(used.items())
        ],
        retryable=verdict.get("retryable") if isinstance(verdict, dict) else None,
        result=atomic.read_json(found.result_file) if view.state is RunState.COMPLETED else None,
        path=found.path,
        refusal=refusal(view),
    )


def refusal(view: View) -> str:
    """Why it cannot be submitted again; "" if it can."""
    if not view.state.is_final:
        return "it has not ended"
    if view.state is RunState.COMPLETED:
        return "it completed; `hpcpools reproduce` repeats it as a new run"
    if view.cancel_asked:  # on record for good: a node that finds it starts nothing
        return "it was cancelled; `hpcpools reproduce` repeats it as a new run"
    return ""


def timeline(view: View, now: float) -> list[Span]:
    """Waiting and running from submission to the end, as stretches of a thousand."""
    begin = view.request.created
    end = max(view.since if view.state.is_final else now, begin + 1.0)
    spans: list[Span] = []
    at = begin

    def add(to: float, tone: str, title: str) -> None:
        nonlocal at
        to = min(max(to, at), end)
        left = WIDTH * (at - begin) / (end - begin)
        width = WIDTH * (to - at) / (end - begin)
        if width > 0:
            spans.append(Span(round(left, 2), round(max(width, 2.0), 2), tone, title))
        at = to

    for attempt, after in zip_longest(view.attempts, view.attempts[1:]):
        if not attempt.started:
            continue
        add(attempt.started, "wait", "waiting")
        ended = attempt.ended or (after.started if after else end)
        tone = {"completed": "good", "failed": "bad", "": "busy"}.get(attempt.outcome, "warn")
        add(ended, tone, f"attempt {attempt.number}: {attempt.outcome or 'running'}")
    if not view.state.is_final and view.state is not RunState.RUNNING:
        add(end, "wait", "waiting")
    return spans


def series(token: str) -> ResponseReturnValue:
    """The curves, as JSON: what the training logged, and what its GPUs did."""
    found = _open(token)
    view = read_view(found)
    return jsonify(metrics=curves.metrics(found.metrics_file), gpus=curves.gpus(view.attempts))


def log(token: str) -> ResponseReturnValue:
    """A piece of an attempt's log from ``at`` on; without ``at``, its end. As JSON."""
    found = _open(token)
    said = request.args
    view = read_view(found)
    number = said.get("attempt", "")
    chosen = [each for each in view.attempts if not number or str(each.number) == number]
    if number and not chosen:
        raise NotFoundError("there is no such attempt", hint="the run's page lists them")
    at = said.get("at", "")
    stream = "err" if said.get("stream") == "err" else "out"
    node = said.get("node", "")
    piece = logtail.read(
        chosen[-1] if chosen else None, stream, node, int(at) if at.isdecimal() and len(at) < 18 else None
    )
    return jsonify(**piece, over=view.state.is_final)


def explain(token: str) -> ResponseReturnValue:
    """Why it is in its state; may ask Slurm, so the page does not wait for it."""
    found = _open(token)
    config = site().config
    local = read_view(found).request.engine == "local"
    alive = not local or any(row.name == "slot" and row.state == "running" for row in control.ps(config))
    return render_template("explanation.html", found=decide(findings.gather(config, found, slot_alive=alive)))


def cancel(token: str) -> ResponseReturnValue:
    """Ask for its end."""
    here = site()
    cancelling.cancel(here.config, [_open(token)])
    return done("cancelled", "run", token=token)


def requeue(token: str) -> ResponseReturnValue:
    """Submit it once more."""
    here = site()
    view = read_view(_open(token))
    if why := refusal(view):
        raise RefusedError(f"{token}: {why}", hint=f"`hpcpools show {token}` has all of it")
    again.retry(here.config, [view])
    return done("requeued", "run", token=token)
