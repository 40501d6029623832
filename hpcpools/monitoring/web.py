"""The one page of metrics over HTTP: a unix socket for ourselves alone, or a loopback port behind a token.

Owns the sockets and who may read. Refuses any other address, any other user, any method but GET and HEAD,
and more than a few clients at once.
"""

from __future__ import annotations

import contextlib
import hmac
import re
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from hpcpools.eventlog import event, log
from hpcpools.redisdb import runtime
from hpcpools.services import channel, listening

SOCKET_NAME = "exporter.sock"
LOCK_NAME = "exporter.lock"
TOKEN_NAME = "exporter.token"  # noqa: S105  (a file's name)
PATH = "/metrics"
CLIENTS = 8  # at once
PATIENCE = 5.0  # seconds for a client to say or take the next piece
_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)

Page = Callable[[str], tuple[bytes, str]]  # the header Accept → body, content type


class Server(ThreadingMixIn, TCPServer):
    """Serves ``page`` on ``listener``; ``secret`` guards a port, a unix socket asks the kernel who calls."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, page: Page, secret: bytes | None) -> None:
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.page, self.secret = page, secret
        self._free = threading.BoundedSemaphore(CLIENTS)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """A stranger on the unix socket is hung up on."""
        return self.secret is not None or channel.is_ours(request)

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread, if one is free."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no event."""


class _Handler(BaseHTTPRequestHandler):
    timeout = PATIENCE
    server_version, sys_version = "hpcpools", ""
    server: Server

    def do_GET(self) -> None:
        """The page, or why not: 403 for a foreign Host, 401 without the token, 404 elsewhere."""
        secret = self.server.secret
        if secret is not None and not _named_here(self.headers.get_all("Host") or []):
            self._say(403, b"this host only\n")
        elif secret is not None and not _knows(secret, self.headers.get_all("Authorization") or []):
            self._say(401, b"a bearer token is needed\n")
        elif self.path.partition("?")[0] != PATH:
            self._say(404, f"see {PATH}\n".encode())
        else:
            try:
                body, kind = self.server.page(self.headers.get("Accept", ""))
            except Exception as error:  # one bad scrape must not end the service
                log.error(event("scrape-fail", error=f"{type(error).__name__}: {error}"))
                self._say(500, b"the metrics could not be read; see the log\n")
            else:
                self._say(200, body, kind)

    do_HEAD = do_GET  # noqa: N815  (the library's name)

    def _refuse(self) -> None:
        self._say(405, b"GET only\n")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = _refuse  # noqa: N815

    def _say(self, code: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(code)
        if code == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        if code == 405:
            self.send_header("Allow", "GET, HEAD")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes come by the thousand and say nothing; what fails is told by :meth:`do_GET`."""


def _named_here(hosts: list[str]) -> bool:
    """One Host, and it names the loopback: a web page of elsewhere whose name was pointed here does not.

    With any port: it may have come through ``ssh -L``.
    """
    return len(hosts) == 1 and _HOST.fullmatch(hosts[0]) is not None


def _knows(secret: bytes, said: list[str]) -> bool:
    """``Bearer`` and the token, compared in constant time."""
    scheme, _, given = said[0].partition(" ") if len(said) == 1 else ("", "", "")
    same = hmac.compare_digest(given.strip().encode("utf-8", "replace"), secret)
    return scheme.lower() == "bearer" and same


@contextlib.contextmanager
def serving(folder: Path, page: Page, listen: str = "") -> Iterator[str]:
    """Serve ``page`` in threads of their own while the block runs; where, in words.

    On ``folder/exporter.sock``, or on ``listen``. Raises UsageError, RefusedError if another exporter serves
    there, PermissionsError.
    """
    runtime.secure_directory(folder)
    with contextlib.ExitStack() as ends:
        if listen:
            secret: bytes | None = listening.token(folder / TOKEN_NAME).encode()
            listener = listening.on_port(*listening.loopback(listen, "exporter"), backlog=CLIENTS)
            host, port = listener.getsockname()[:2]
            where = f"http://{f'[{host}]' if ':' in host else host}:{port}{PATH}"
        else:
            secret, path = None, runtime.socket_path(folder, SOCKET_NAME)
            ends.enter_context(listening.only_one(folder / LOCK_NAME, "exporter", "`hpcpools ps` shows it"))
            listener = channel.listen(path)
            ends.callback(path.unlink, missing_ok=True)
            where = str(path)
        listener.setblocking(True)
        server = Server(listener, page, secret)
        ends.callback(server.server_close)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True).start()
        ends.callback(server.shutdown)
        yield where
