"""Where the pool of a root lives, so that a second login node does not start another one beside it.

Owns ``<root>/.pool/``, in the root that login nodes share. The newest claim is the pool; ``link(2)`` lets
one host make it, on a shared file system too. Refuses to guess: a host that was heard of lately keeps its
place until it says that it has left.

    <root>/.pool/N.json         claim N: host, runtime directory, pid, since when
                 N.alive.json   renewed every 15 s by the supervisor that made the claim (beacon.py)
                 N.leave.json   another host asks it to stop
                 N.left.json    it has stopped, in order

Who finds a newer claim than his own stops: he was silent for so long that another host took over. Pools
with one Redis between them (``redis.url``) need no claim: jobs, slots and the scheduler's lease are claimed
there.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct

from hpcpools import atomic, durations, eventlog, formats
from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError, RefusedError
from hpcpools.redisdb.runtime import uses_own_redis
from hpcpools.runs.directory import check_owned, secure_root
from hpcpools.services import lock
from hpcpools.textsafe import one_line

BEAT = 15.0  # seconds between two signs of life
STALE_AFTER = 120.0  # seconds without one; nfs(5) may show a file 60 s late
PATIENCE = STALE_AFTER + 30.0  # seconds: by then who was asked to leave has left, or is silent, or will not
LOOK = 1.0  # seconds between two looks while waiting

Note = Callable[[str], None]


class Place(Struct, frozen=True):
    """A claim; ``seen``: the last sign of life, epoch seconds of the clock of ``host``."""

    number: int
    host: str
    runtime_dir: str
    pid: int
    since: float
    seen: float
    left: bool

    def __str__(self) -> str:
        since = eventlog.stamp(self.since)[:16].replace("T", " ")
        return one_line(f"{self.host} (pid {self.pid}, since {since} UTC, {self.runtime_dir})", 300)

    @property
    def silent(self) -> float:
        """Seconds since its last sign of life."""
        return time.time() - self.seen

    @property
    def stale(self) -> bool:
        """Whether it is silent for too long to be alive."""
        return self.silent >= STALE_AFTER


def folder(root: Path) -> Path:
    """Where the claims are."""
    return root / ".pool"


def newest(root: Path) -> Place | None:
    """The newest claim; None if there was none. Raises PermissionsError, RefusedError for a newer format."""
    number = newest_number(root)
    if number < 0:
        return None
    check_owned(folder(root))
    facts = _read(root, f"{number}.json")
    formats.check(facts.get("format", formats.FORMAT), str(folder(root) / f"{number}.json"))
    since = _number(facts.get("since"))
    return Place(
        number=number,
        host=str(facts.get("host", "")),
        runtime_dir=str(facts.get("runtime_dir", "")),
        pid=int(_number(facts.get("pid"))),
        since=since,
        seen=max(since, _number(_read(root, f"{number}.alive.json").get("at"))),
        left=(folder(root) / f"{number}.left.json").exists(),
    )


def newest_number(root: Path) -> int:
    """The number of the newest claim; -1 for none. Raises OSError if nobody can tell now."""
    try:
        names = os.listdir(folder(root))
    except FileNotFoundError:
        return -1
    return max((int(n[:-5]) for n in names if n.endswith(".json") and n[:-5].isdecimal()), default=-1)


def elsewhere(config: Config) -> Place | None:
    """The pool of this root that has not left, if it is of another host or another runtime directory."""
    there = newest(config.root)
    ours = there and (there.host, there.runtime_dir) == (socket.gethostname(), str(config.runtime_dir))
    return None if there is None or there.left or ours else there


def admit(config: Config, *, take_over: bool = False, note: Note = lambda _text: None) -> None:
    """Return if the pool may start here; with ``take_over`` have another host leave first.

    ``note`` hears what is done about another host. Raises RefusedError that names it.
    """
    there = elsewhere(config)
    if there is None:
        return
    if not there.stale:
        if not take_over:
            raise _lives(config, there)
        note(f"asking the pool on {there} to stop; this takes up to {durations.age(PATIENCE)}")
        there = _dismiss(config, there)
    if there.stale and not there.left:
        note(f"the pool on {there} is silent for {durations.age(there.silent)}; it lives here from now on")
    if there.runtime_dir == str(config.runtime_dir):  # on a shared file system, with a record of that host
        lock.forget(config.runtime_dir / lock.NAME, there.host)


def claim(config: Config) -> int | None:
    """The supervisor's own claim, its number; None where pools share one Redis.

    Raises RefusedError if another host was quicker, PermissionsError, HpcpoolsError if it cannot be written.
    """
    if (there := elsewhere(config)) and not there.stale:
        raise _lives(config, there)
    if not uses_own_redis(config):
        return None
    home = folder(config.root)
    me = {
        "host": socket.gethostname(),
        "runtime_dir": str(config.runtime_dir),
        "pid": os.getpid(),
        "format": formats.FORMAT,
    }
    try:
        secure_root(config.root)
        home.mkdir(mode=0o700, exist_ok=True)
        check_owned(home)
        number = newest_number(config.root) + 1
        if not atomic.create_json(home / f"{number}.json", {**me, "since": time.time()}):
            return claim(config)  # another host was quicker: who?
        _forget_before(home, number)
    except OSError as error:
        raise HpcpoolsError(
            f"cannot write in {home}: {error.strerror or error}", hint="check space, quota and mode there"
        ) from error
    return number


def alive(root: Path, number: int) -> None:
    """Give a sign of life. Raises OSError."""
    atomic.write_json(folder(root) / f"{number}.alive.json", {"at": time.time()})


def dismissed(root: Path, number: int) -> bool:
    """Whether the holder of claim ``number`` is to stop. Raises OSError if nobody can tell now."""
    return (folder(root) / f"{number}.leave.json").exists() or newest_number(root) > number


def leave(root: Path, number: int) -> None:
    """Say that everything has stopped in order; the place is free."""
    with contextlib.suppress(OSError):  # then it is free once it is silent for long enough
        atomic.create_json(folder(root) / f"{number}.left.json", {"at": time.time()})


def _dismiss(config: Config, there: Place) -> Place:
    """Ask it to leave, and wait until it has, or is silent. Raises RefusedError if it does neither."""
    request = folder(config.root) / f"{there.number}.leave.json"
    atomic.create_json(request, {"host": socket.gethostname(), "at": time.time()})
    deadline = time.monotonic() + PATIENCE
    try:
        while not there.left and not there.stale:
            if time.monotonic() >= deadline:
                raise RefusedError(
                    f"the pool on {there} was asked to stop and still lives, "
                    f"last heard of {durations.age(there.silent)} ago; nothing was started here",
                    hint=f"`ssh {one_line(there.host, 80)}` and `hpcpools down` there",
                )
            time.sleep(LOOK)
            now = newest(config.root)
            if now is None or now.number != there.number:
                raise RefusedError(
                    f"the pool moved meanwhile: it lives on {now or 'no host'}", hint="look at it first"
                )
            there = now
    except BaseException:
        request.unlink(missing_ok=True)  # or it would stop later, with nobody to take its place
        raise
    return there


def _lives(config: Config, there: Place) -> RefusedError:
    host = one_line(there.host, 80)
    return RefusedError(
        f"the pool of {config.root} lives on {there}, last heard of {durations.age(there.silent)} ago",
        hint=f"use it there (`ssh {host}`), or move it here with `hpcpools up --take-over`",
    )


def _forget_before(home: Path, number: int) -> None:
    for name in os.listdir(home):
        head = name.partition(".")[0]
        if head.isdecimal() and int(head) < number:
            (home / name).unlink(missing_ok=True)


def _read(root: Path, name: str) -> dict[str, Any]:
    try:
        found = atomic.read_json(folder(root) / name)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0
