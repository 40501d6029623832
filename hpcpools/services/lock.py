"""The one lock that makes a supervisor the only one of its runtime directory, and who holds it.

Owns ``supervisor.lock``. The kernel lock is the truth; the record inside names the holder and is believed
only while the lock is held. Refuses to name a process whose start time does not match.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from pathlib import Path

from msgspec import Struct
from msgspec.structs import asdict

from hpcpools.errors import HpcpoolsError
from hpcpools.textsafe import one_line

NAME = "supervisor.lock"


class Holder(Struct, frozen=True):
    """The process that holds, or on another host held, the lock."""

    host: str
    pid: int
    start: int  # clock ticks after boot, from /proc/PID/stat

    @property
    def verified(self) -> bool:
        """Whether ``pid`` is still that very process, so that it may be signalled."""
        return self.host == socket.gethostname() and start_time(self.pid) == self.start


def start_time(pid: int) -> int | None:
    """When process ``pid`` started, in clock ticks after boot; None if there is none or it is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = stat.rpartition(b")")[2].split()  # the name before it may hold spaces and parentheses
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def acquire(path: Path, *, wait: float = 0.5) -> int | None:
    """Take the lock and record this process; the lock lives as long as the returned descriptor.

    Returns None if another process still holds it after ``wait`` seconds (a reader holds it for an
    instant). Raises HpcpoolsError if the record names another host.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + wait
    while not _locked(fd, fcntl.LOCK_EX):
        if time.monotonic() >= deadline:
            os.close(fd)
            return None
        time.sleep(0.02)
    _refuse_other_host(_record(fd), path)
    me = Holder(socket.gethostname(), os.getpid(), start_time(os.getpid()) or 0)
    os.ftruncate(fd, 0)
    os.pwrite(fd, json.dumps(asdict(me)).encode(), 0)
    return fd


def release(fd: int) -> None:
    """Clear the record and give the lock back."""
    os.ftruncate(fd, 0)
    os.close(fd)


def holder(path: Path) -> Holder | None:
    """Who holds the lock now; None if nobody does.

    Raises HpcpoolsError if it is held, or was left without a clean stop, on another host.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        deadline = time.monotonic() + 2.0
        while True:
            free = _locked(fd, fcntl.LOCK_SH)
            record = _record(fd)
            _refuse_other_host(record, path)
            if free:
                return None
            if record is not None:
                return record
            if time.monotonic() >= deadline:
                raise HpcpoolsError(f"{path} is locked by an unknown process", hint=f"see `fuser {path}`")
            time.sleep(0.02)  # between its lock and its record
    finally:
        os.close(fd)


def forget(path: Path, host: str) -> None:
    """Clear a record that ``host`` left behind, for who knows that its supervisor is gone."""
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        record = _record(fd)
        if record is not None and record.host == host and _locked(fd, fcntl.LOCK_EX):
            os.ftruncate(fd, 0)
        os.close(fd)


def _locked(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _record(fd: int) -> Holder | None:
    try:
        value = json.loads(os.pread(fd, 1024, 0))
        return Holder(host=str(value["host"]), pid=int(value["pid"]), start=int(value["start"]))
    except (ValueError, KeyError, TypeError):
        return None


def _refuse_other_host(record: Holder | None, path: Path) -> None:
    if record is not None and record.host != socket.gethostname():
        raise HpcpoolsError(
            f"the services of {path.parent} run on {one_line(record.host, 80)}, "
            f"this is {socket.gethostname()}",
            hint=f"run the command there; if that host is gone, remove {path}",
        )
