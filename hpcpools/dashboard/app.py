"""The app: gate, pages and rq-dashboard put together, and how an error looks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import Flask, Response, current_app, g, jsonify, redirect, render_template, request, url_for
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as Answer

from hpcpools import __version__
from hpcpools.config import Config
from hpcpools.dashboard import rqmount, shown
from hpcpools.dashboard.security import Gate
from hpcpools.dashboard.table import Table
from hpcpools.errors import (
    HpcpoolsError,
    NotFoundError,
    PermissionsError,
    RefusedError,
    UnavailableError,
    UsageError,
)
from hpcpools.eventlog import event, log

CODES = {NotFoundError: 404, RefusedError: 409, UsageError: 400, UnavailableError: 503, PermissionsError: 500}
NAVIGATION = (
    ("overview", "Overview"),
    ("runs", "Runs"),
    ("sweeps", "Sweeps"),
    ("pipelines", "Pipelines"),
    ("schedule", "Schedule"),
    ("nodes", "Nodes"),
    ("rq_dashboard.queues_overview", "Queues"),
    ("rq_dashboard.jobs_overview", "Jobs"),
    ("rq_dashboard.workers_overview", "Workers"),
)

# What a page says after a change, by the word that the address has for it.
DONE = {
    "cancelled": "Its end was asked for.",
    "requeued": "It was submitted again.",
    "retried": "What failed is tried again.",
    "paused": "Paused: it fires nothing until it is resumed.",
    "resumed": "Resumed: it fires again from its next slot on.",
    "fired": "Its task was enqueued.",
}

_OURS = re.compile(r"/([\w.~%-][\w./~%-]*)?", re.ASCII)  # a path, and no way to another host


@dataclass(frozen=True)
class Site:
    """What the pages work with."""

    config: Config
    gate: Gate
    table: Table


def site() -> Site:
    """Of the request's app."""
    found: Site = current_app.extensions["hpcpools"]
    return found


def create(config: Config, token: str, *, allow_changes: bool = False) -> Flask:
    """The app for one pool; it reads what it shows in a thread of its own."""
    from hpcpools.dashboard import routes  # the pages import this module

    here = Path(__file__).parent
    app = Flask(
        "hpcpools.dashboard", root_path=str(here), static_folder="static", template_folder="templates"
    )
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    gate = Gate(token, str(config.runtime_dir), allow_changes=allow_changes)
    app.extensions["hpcpools"] = Site(config, gate, Table(config))
    gate.install(app)
    app.jinja_env.filters.update(shown.FILTERS)
    app.context_processor(_context)
    app.add_url_rule("/login", "login", _login, methods=["GET", "POST"])
    app.add_url_rule("/logout", "logout", _logout, methods=["POST"])
    routes.register(app)
    rqmount.mount(app, config)
    app.register_error_handler(HpcpoolsError, _told)
    app.register_error_handler(HTTPException, _refused)
    app.register_error_handler(Exception, _broken)
    app.extensions["hpcpools"].table.start()
    return app


def _context() -> dict[str, Any]:
    here = site()
    return {
        "navigation": NAVIGATION,
        "project": here.config.folder.name,
        "allow_changes": here.gate.allow_changes,
        "csrf": g.get("csrf", ""),
        "logged_in": g.get("logged_in", False),
        "version": __version__,
        "table": here.table,
        "done": DONE.get(request.args.get("done", ""), ""),
    }


def done(what: str, page: str, **address: Any) -> Answer:
    """After a change: to ``page``, which tells it in the words of DONE."""
    site().table.soon()
    return redirect(url_for(page, done=what, **address), 303)


def _login() -> Answer | tuple[str, int] | str:
    gate = site().gate
    if request.method == "GET":
        return render_template("login.html", to=request.args.get("to", "/"))
    to = request.form.get("to", "/")
    cookie = gate.log_in(request.form.get("token", ""))
    if cookie is None:
        log.warning(event("login-refused"))
        return render_template("login.html", to=to, wrong=True), 401
    answer = redirect(to if _OURS.fullmatch(to) else url_for("overview"), 303)
    gate.give_cookie(answer, cookie)
    return answer


def _logout() -> Answer:
    gate = site().gate
    gate.log_out()
    answer = redirect(url_for("login"), 303)
    gate.give_cookie(answer, "")
    return answer


def _told(error: HpcpoolsError) -> tuple[Response | str, int]:
    code = next((code for kind, code in CODES.items() if isinstance(error, kind)), 500)
    return _error(code, error.message, error.hint)


def _refused(error: HTTPException) -> tuple[Response | str, int]:
    code = error.code or 500
    standard = {404: "there is no such page", 405: "this page takes no such request"}
    text = str(error.description or "")
    default = type(error).description or ""
    return _error(code, standard.get(code, text) if text == default else text, "")


def _broken(error: Exception) -> tuple[Response | str, int]:
    log.error(event("page-fail", path=request.path, error=f"{type(error).__name__}: {error}"))
    return _error(500, "this page could not be made", "the dashboard's log says more")


def _error(code: int, message: str, hint: str) -> tuple[Response | str, int]:
    wants = request.accept_mimetypes.best_match(["application/json", "text/html"], "text/html")
    if wants == "application/json":
        return jsonify(error=message, hint=hint), code
    return render_template("error.html", code=code, message=message, hint=hint), code
