"""The lease that makes one scheduler the live one: an owner token in Redis, with an expiry by Redis's clock.

Owns taking, keeping, giving back and checking it. Refuses to extend or delete a lease of someone else.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from hpcpools.errors import RefusedError
from hpcpools.redisdb import keys
from hpcpools.textsafe import one_line

if TYPE_CHECKING:
    from redis import Redis
    from redis.client import Pipeline

TTL = 8.0  # seconds; a dead holder on another host is succeeded after this and one poll

# Both answer with Redis's own time, so that schedulers on hosts with different clocks agree.
_TAKE = """
local owner = redis.call('GET', KEYS[1])
if not owner or owner == ARGV[3] then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  owner = false
elseif owner == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
local time = redis.call('TIME')
return {owner or '', time[1], time[2]}
"""
_RELEASE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""


class LeaseLostError(RefusedError):
    """Another scheduler holds the lease now; whatever was about to be written was not."""


class Holder(Struct, frozen=True):
    """Who holds the lease, and how many seconds ago they last said so."""

    name: str
    age: float


class Lease:
    """One scheduler's claim on the lease.

    ``connection`` must not send a command again by itself (``retries=0``): after a reconnect in the middle
    of a guarded write, Redis would no longer watch the lease.
    """

    def __init__(self, connection: Redis, ttl: float = TTL) -> None:
        self.name = f"{_host()}:{os.getpid()}"
        self.token = f"{self.name}:{_pid_space()}-{secrets.token_hex(8)}".encode()
        self.owner = b""  # as of the last take()
        self._offset = 0.0
        self._connection = connection
        self._ttl_ms = int(ttl * 1000)
        self._take = connection.register_script(_TAKE)
        self._release = connection.register_script(_RELEASE)

    @property
    def held(self) -> bool:
        """Whether this claim won at the last :meth:`take`."""
        return self.owner == self.token

    @property
    def holder(self) -> str:
        """host:pid of who had it at the last :meth:`take`."""
        return _name(self.owner)

    def clock(self) -> float:
        """Redis's time now, in seconds since the epoch, carried on from the last :meth:`take`."""
        return time.monotonic() + self._offset

    def take(self) -> bool:
        """Take the lease if it is free, extend it if it is ours; True if it is ours. Reads Redis's clock.

        That of a process of this host that has ended is free too: a scheduler that is started again after
        kill -9 does not wait for it to expire.
        """
        dead = self.owner if _has_ended(self.owner) else b""
        self.owner = b""
        before, seconds, micros = self._take(
            keys=[keys.SCHEDULER_LEASE], args=[self.token, self._ttl_ms, dead]
        )
        self.owner = before or self.token
        self._offset = int(seconds) + int(micros) / 1e6 - time.monotonic()
        return self.held

    def release(self) -> bool:
        """Give the lease back; False if it is not ours (any more)."""
        self.owner = b""
        return bool(self._release(keys=[keys.SCHEDULER_LEASE], args=[self.token]))

    def guarded(self, write: Callable[[Pipeline], Any], *watches: str) -> Any:
        """Run ``write`` in a transaction that Redis executes only while the lease is ours.

        ``write`` reads what it needs (``watches`` are the keys it decides on), calls ``multi()``, queues its
        writes and returns a value, which is returned. It may be called again if a watched key changed.
        A holder that was stopped, even between its reads and its writes, writes nothing once the lease
        expired or went to another. Raises LeaseLostError.
        """

        def checked(pipe: Pipeline) -> Any:
            if pipe.get(keys.SCHEDULER_LEASE) != self.token:
                raise LeaseLostError("another scheduler took the lease", hint="this one stands by")
            return write(pipe)

        return self._connection.transaction(checked, keys.SCHEDULER_LEASE, *watches, value_from_callable=True)


def holder(connection: Redis) -> Holder | None:
    """The live scheduler, or None if there is none."""
    with connection.pipeline(transaction=True) as pipe:
        pipe.get(keys.SCHEDULER_LEASE)
        pipe.pttl(keys.SCHEDULER_LEASE)
        token, left = pipe.execute()
    if token is None:
        return None
    return Holder(_name(token), max(0.0, TTL - left / 1000))


def _pid_space() -> str:
    """What tells our pids from those of a namesake, or of a container here; "" if nobody can say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
        return f"{boot}.{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _has_ended(token: bytes) -> bool:
    """Whether the owner of a lease is a process of this host, seen from here, that is no more."""
    host, _, pid = _name(token).rpartition(":")
    space = token.decode("ascii", "replace").rpartition(":")[2].partition("-")[0]
    if host != _host() or not space or space != _pid_space() or not pid.isdigit():
        return False
    return not Path(f"/proc/{pid}").exists()


def _host() -> str:
    return socket.gethostname().split(".")[0]


def _name(token: bytes) -> str:
    return one_line(token.decode("utf-8", "replace").rpartition(":")[0])
