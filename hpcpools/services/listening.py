"""What each web service of ours needs before it answers: a loopback port, a token, being the only one.

Owns these refusals: another address than this host's loopback, a weak token, a second service of its kind.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

from hpcpools import atomic
from hpcpools.errors import ConfigError, HpcpoolsError, RefusedError, UsageError
from hpcpools.redisdb import runtime

TOKEN_BYTES = 32
SHORTEST_TOKEN = 32  # characters; 128 bits as hexadecimal digits


def loopback(text: str, service: str) -> tuple[str, int]:
    """``127.0.0.1:9123`` or ``[::1]:9123`` as address and port (0: any free one). Raises UsageError."""
    host, _, port = text.rpartition(":")
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        if address.is_loopback and port.isascii() and port.isdecimal() and int(port) < 65536:
            return str(address), int(port)
    except ValueError:
        pass
    raise UsageError(
        f"cannot listen on {text!r}: the {service} serves this host alone",
        hint="write 127.0.0.1:PORT; from elsewhere, reach it through `ssh -L`",
    )


def on_port(host: str, port: int, backlog: int) -> socket.socket:
    """A listening TCP socket. Raises HpcpoolsError if the port is taken."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise HpcpoolsError(
            f"cannot listen on port {port}: {error.strerror}", hint="choose another, or leave --listen out"
        ) from None
    return listener


def token(file: Path) -> str:
    """The token in ``file``, made there if missing. Raises PermissionsError, ConfigError."""
    if not file.exists():
        atomic.create_bytes(file, secrets.token_urlsafe(TOKEN_BYTES).encode() + b"\n")
    text = runtime.private_text(file)
    if len(text) < SHORTEST_TOKEN or not text.isascii():
        raise ConfigError(
            f"the token in {file} is shorter than {SHORTEST_TOKEN} characters",
            hint="remove the file, and a good one is made",
        )
    return text


@contextlib.contextmanager
def only_one(path: Path, service: str, hint: str) -> Iterator[None]:
    """Hold the lock ``path`` while the block runs. Raises RefusedError if another ``service`` holds it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RefusedError(f"another {service} runs here (it holds {path})", hint=hint) from None
        yield
    finally:
        os.close(fd)
