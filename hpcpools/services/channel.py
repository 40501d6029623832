"""The supervisor's control channel: one JSON line asks, one JSON line answers, then it closes.

Owns the unix socket and its messages. Refuses other users (by the kernel's word), long and slow requests.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import Literal

import msgspec

from hpcpools.redisdb import runtime
from hpcpools.services.state import ServiceState

SOCKET_NAME = "control.sock"
MAX_MESSAGE = 64 * 1024  # bytes
Op = Literal["up", "down", "restart", "ps"]
READY = b"ready\n"  # what a new supervisor tells its starter once it listens


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client asks for; no names means all."""

    op: Op
    names: tuple[str, ...] = ()


class Reply(msgspec.Struct, frozen=True):
    """The services as they are after the request, or why it was refused."""

    services: tuple[ServiceState, ...] = ()
    concerned: tuple[str, ...] = ()  # the services that the request started or stopped
    error: str = ""
    closing: bool = False  # the supervisor is about to end; ask its successor


def listen(path: Path) -> socket.socket:
    """The listening socket at ``path``, mode 0600; the caller holds the supervisor's lock."""
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(str(path))  # the directory is 0700: nobody gets in before the chmod
    path.chmod(0o600)
    server.listen(16)
    server.setblocking(False)
    return server


def is_ours(connection: socket.socket) -> bool:
    """Whether the process at the other end belongs to this user."""
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return bool(uid == os.geteuid())


def parse(line: bytes) -> Request | None:
    """The request in ``line``; None if it is none."""
    try:
        return msgspec.json.decode(line, type=Request)
    except msgspec.DecodeError:
        return None


def encode(message: Request | Reply) -> bytes:
    """``message`` as one line."""
    return msgspec.json.encode(message) + b"\n"


def call(path: Path, request: Request, timeout: float) -> Reply:
    """Ask the supervisor at ``path``.

    Raises OSError if nobody answers in time, PermissionsError if the socket is open to others.
    """
    runtime.check_socket(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect(str(path))
        if not is_ours(connection):
            raise ConnectionRefusedError(f"{path} is served by another user")
        connection.sendall(encode(request))
        data = b""
        while not data.endswith(b"\n"):
            chunk = connection.recv(MAX_MESSAGE)
            data += chunk
            if not chunk or len(data) > MAX_MESSAGE:
                raise ConnectionError(f"{path}: no whole answer")
    try:
        return msgspec.json.decode(data, type=Reply)
    except msgspec.DecodeError as error:
        raise ConnectionError(f"{path}: {error}") from None
