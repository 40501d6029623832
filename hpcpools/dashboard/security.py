"""Who may see and change what: one gate before every request, one set of headers after it (SEC-5).

Owns sessions, the token's check, Host and Origin, CSRF and the read-only rule; no page can forget one, as all
stand before the routing to pages. Refuses before it answers: a stranger learns no page's name.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from flask import Flask, Response, abort, g, redirect, request, url_for
from werkzeug.wrappers import Response as Answer

LIFETIME = 12 * 3600.0  # seconds a login lasts
MOST = 64  # logins at a time; the oldest makes room
# Through `ssh -L` the browser names its own end of the tunnel: this host's loopback, any port.
_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
READING = frozenset({"GET", "HEAD", "OPTIONS"})
OPEN = frozenset({"login", "static"})  # the endpoints for those who have not logged in; no secrets in them
ALWAYS = frozenset({"login", "logout"})  # the changes that a read-only dashboard takes
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # Nothing to others; `no-referrer` would make browsers send our own forms with `Origin: null`.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


@dataclass
class Session:
    """One browser that has shown the token; ``ends`` on this process's monotonic clock."""

    ends: float
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32))


class Gate:
    """The rules of one app. Logins live in this process's memory: a restart ends them all."""

    def __init__(self, token: str, name: str, *, allow_changes: bool) -> None:
        # Cookies of one host are shared by its ports: each pool's has its own name.
        self.cookie = f"hpcpools-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        self.allow_changes = allow_changes
        self._token = token.encode()
        self._sessions: dict[str, Session] = {}

    def install(self, app: Flask) -> None:
        """Put the gate before every request of ``app``, and the headers after it."""
        app.before_request(self.check)
        app.after_request(dress)

    def check(self) -> Answer | None:
        """Let the request pass, or answer 403, 401, 405, or with the way to the login."""
        hosts = request.headers.getlist("Host")
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
            abort(403, "this address is not ours: open it as localhost or 127.0.0.1")
        change = request.method not in READING
        origin = request.headers.get("Origin")
        foreign = origin is not None and origin != f"http://{hosts[0]}"
        if foreign or (change and origin is None) or _from_elsewhere():
            abort(403, "the request comes from another page")
        session = self._find()
        g.csrf, g.logged_in = (session.csrf, True) if session else ("", False)
        if session is None:
            return None if request.endpoint in OPEN else self._send_to_login(change)
        if change and request.endpoint != "login":
            self._check_change(session)
        return None

    def _check_change(self, session: Session) -> None:
        given = request.headers.get("X-CSRF-Token") or request.form.get("csrf", "")
        if not hmac.compare_digest(given.encode("utf-8", "replace"), session.csrf.encode()):
            abort(403, "the form is not from this login: reload the page")
        if request.routing_exception is None and request.endpoint not in ALWAYS and not self.allow_changes:
            abort(403, "this dashboard only shows: start it with --allow-changes")

    def _send_to_login(self, change: bool) -> Answer:
        page = request.accept_mimetypes.best_match(["text/html", "application/json"]) == "text/html"
        if change or not page:
            abort(401, "log in first")
        return redirect(url_for("login", to=request.path), 303)

    def log_in(self, given: str) -> str | None:
        """The cookie's value for a browser that knows the token; None if it does not."""
        if not hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._token):
            return None
        now = time.monotonic()
        kept = sorted(((s.ends, name) for name, s in self._sessions.items() if s.ends > now), reverse=True)
        self._sessions = {name: self._sessions[name] for _, name in kept[: MOST - 1]}
        name = secrets.token_urlsafe(32)
        self._sessions[name] = Session(now + LIFETIME)
        return name

    def log_out(self) -> None:
        """Forget the login of this request."""
        self._sessions.pop(request.cookies.get(self.cookie, ""), None)

    def give_cookie(self, answer: Answer, value: str) -> None:
        """Only sent by this site's own pages, and to no script of them."""
        age = int(LIFETIME) if value else 0
        answer.set_cookie(self.cookie, value, max_age=age, httponly=True, samesite="Strict", path="/")

    def _find(self) -> Session | None:
        session = self._sessions.get(request.cookies.get(self.cookie, ""))
        return session if session is not None and session.ends > time.monotonic() else None


def dress(answer: Response) -> Response:
    """The headers of every answer, errors included."""
    answer.headers.update(HEADERS)
    if request.endpoint == "static":
        answer.headers["Cache-Control"] = "private, max-age=3600"
    return answer


def _from_elsewhere() -> bool:
    """What current browsers say of where a request comes from; a link or an address typed in is fine."""
    site: Any = request.headers.get("Sec-Fetch-Site", "same-origin")
    if site in ("same-origin", "none"):
        return False
    return request.method not in READING or request.headers.get("Sec-Fetch-Mode") != "navigate"
