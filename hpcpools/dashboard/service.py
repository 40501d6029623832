"""The dashboard as a process: its socket or loopback port, its token, its server.

Owns where it listens. Refuses any address but this host's loopback, and a second dashboard of a pool.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpcpools import atomic, eventlog
from hpcpools.account import user
from hpcpools.config import Config
from hpcpools.errors import ConfigError, HpcpoolsError, RefusedError, UsageError
from hpcpools.eventlog import event, log
from hpcpools.redisdb import runtime
from hpcpools.services import channel

if TYPE_CHECKING:
    from flask import Flask

SOCKET_NAME = "dashboard.sock"
TOKEN_NAME = "dashboard.token"  # noqa: S105  (a file's name)
TOKEN_BYTES = 32
SHORTEST_TOKEN = 32  # characters; 128 bits as hexadecimal digits
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
    address = loopback(listen) if listen else None
    folder = runtime.secure_directory(config.runtime_dir)
    host = socket.gethostname()
    with contextlib.ExitStack() as ends:
        ends.enter_context(_only_one(folder / "dashboard.lock"))
        token(config)
        if address:
            listener = _port(*address)
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
    file = runtime.secure_directory(config.runtime_dir) / TOKEN_NAME
    if not file.exists():
        atomic.create_bytes(file, secrets.token_urlsafe(TOKEN_BYTES).encode() + b"\n")
    text = runtime.private_text(file)
    if len(text) < SHORTEST_TOKEN:
        raise ConfigError(
            f"the token in {file} is shorter than {SHORTEST_TOKEN} characters",
            hint="remove the file, and a good one is made",
        )
    return text


def loopback(text: str) -> tuple[str, int]:
    """``127.0.0.1:8080`` as address and port (0: any free one). Raises UsageError."""
    host, _, port = text.rpartition(":")
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        if address.is_loopback and port.isascii() and port.isdecimal() and int(port) < 65536:
            return str(address), int(port)
    except ValueError:
        pass
    raise UsageError(
        f"cannot listen on {text!r}: the dashboard serves this host alone",
        hint="write 127.0.0.1:PORT; from elsewhere, reach it through `ssh -L`",
    )


def _port(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(64)
    except OSError as error:
        listener.close()
        raise HpcpoolsError(
            f"cannot listen on port {port}: {error.strerror}", hint="choose another, or leave --listen out"
        ) from None
    return listener


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RefusedError(
                f"another dashboard runs here (it holds {path})", hint="use or end that one"
            ) from None
        yield
    finally:
        os.close(fd)
