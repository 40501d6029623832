"""The dashboard as a process: its socket or loopback port, its token, its server.

Owns where it listens. Refuses any address but this host's loopback, and a second dashboard of a pool.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpcpools import eventlog
from hpcpools.account import user
from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError
from hpcpools.eventlog import event, log
from hpcpools.redisdb import runtime
from hpcpools.services import channel
from hpcpools.services import listening as net

if TYPE_CHECKING:
    from flask import Flask

SOCKET_NAME = "dashboard.sock"
TOKEN_NAME = "dashboard.token"  # noqa: S105  (a file's name)
THREADS = 6
PORT = 8080  # the laptop's end of the tunnel, in what we print
MAX_BODY = 64 * 1024  # bytes of a form


@dataclass(frozen=True)
class Place:
    """Where it listens: ``url`` for a browser, ``tunnel`` the command that leads there from a laptop."""

    listener: socket.socket
    url: str
    tunnel: str
    token_file: Path


def run(config: Config) -> int:
    """Serve as the config says, until SIGTERM or SIGINT; returns 0."""
    eventlog.to_stderr()
    said = config.dashboard
    with listening(config, said.listen) as place:
        serve(config, place, allow_changes=said.allow_changes)
    return 0


@contextlib.contextmanager
def listening(config: Config, listen: str = "") -> Iterator[Place]:
    """Listen on the private unix socket, or on the loopback address ``listen``; once per pool.

    Raises UsageError, RefusedError, PermissionsError, HpcpoolsError.
    """
    address = net.loopback(listen, "dashboard") if listen else None
    folder = runtime.secure_directory(config.runtime_dir)
    host = socket.gethostname()
    with contextlib.ExitStack() as ends:
        ends.enter_context(net.only_one(folder / "dashboard.lock", "dashboard", "use or end that one"))
        token(config)
        if address:
            listener = net.on_port(*address, backlog=64)
            port = listener.getsockname()[1]
            name = f"[{address[0]}]" if ":" in address[0] else address[0]
            url, target = f"http://{name}:{port}/", f"{name}:{port}"
        else:
            path = runtime.socket_path(folder, SOCKET_NAME)
            listener = channel.listen(path)
            ends.callback(path.unlink, missing_ok=True)
            url, target, port = f"http://localhost:{PORT}/", str(path), PORT
        ends.callback(listener.close)
        tunnel = f"ssh -N -L {port}:{target} {user()}@{host}"
        yield Place(listener, url, tunnel, folder / TOKEN_NAME)


def serve(config: Config, place: Place, *, allow_changes: bool) -> None:
    """Answer until SIGTERM or SIGINT. Call it in the main thread."""
    import waitress

    server = waitress.create_server(
        application(config, allow_changes=allow_changes),
        sockets=[place.listener],
        threads=THREADS,
        ident=None,
        max_request_body_size=MAX_BODY,
        channel_timeout=30,
        clear_untrusted_proxy_headers=True,
    )
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    threading.Thread(target=server.run, daemon=True).start()
    log.info(event("dashboard-start", where=place.url, changes=allow_changes))
    over.wait()
    server.close()
    log.info(event("dashboard-end"))


def application(config: Config, *, allow_changes: bool = False) -> Flask:
    """The app. Raises HpcpoolsError without Flask, rq-dashboard or waitress."""
    try:
        import waitress  # noqa: F401

        from hpcpools.dashboard.app import create
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("hpcpools"):
            raise
        raise HpcpoolsError(
            f"the dashboard needs {error.name}", hint="`pip install 'hpcpools[dashboard]'`"
        ) from None
    return create(config, token(config), allow_changes=allow_changes)


def token(config: Config) -> str:
    """What a browser must show once, made if missing. Raises PermissionsError, ConfigError."""
    return net.token(runtime.secure_directory(config.runtime_dir) / TOKEN_NAME)
