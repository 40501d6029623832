"""Redis: does it answer, is what it acknowledged safe, does it throw anything away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from hpcpools.config import Config
from hpcpools.doctor.finding import Finding, fail, ok, warn
from hpcpools.doctor.places import SKEW
from hpcpools.redisdb.connect import connect
from hpcpools.redisdb.outage import AWAY

OLDEST = (6, 2)
NEARLY_FULL = 0.8


def check(config: Config) -> Iterator[Finding]:
    """Raises RedisUnavailableError, PermissionsError: the caller makes findings of them."""
    with connect(config) as connection:
        facts: dict[str, Any] = connection.info()
        seconds, micros = connection.time()
        skew = seconds + micros / 1e6 - time.time()
        fsync = _fsync(connection)
    yield from judge(facts, fsync)
    if abs(skew) > SKEW:
        yield warn("clock", f"Redis is {skew:+.1f} s away from this host", "run NTP on both hosts")


def judge(facts: dict[str, Any], fsync: str) -> Iterator[Finding]:
    """Findings from INFO and the ``appendfsync`` setting ("" if it may not be read). Pure."""
    version = str(facts.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2] if part.isdecimal()) < OLDEST:
        yield fail("redis", f"Redis {version} is too old", "use 6.2 or newer")
    else:
        yield ok("redis", f"Redis {version} answers")
    if not facts.get("aof_enabled"):
        yield fail("redis", "appendonly is off: a crash loses every acknowledged job", "set `appendonly yes`")
    elif facts.get("aof_last_write_status", "ok") != "ok":
        yield fail("redis", "its append-only file cannot be written", "free space on Redis' disk")
    elif fsync not in ("", "always"):
        text = f"appendfsync {fsync}: a power cut may lose the last second"
        yield warn("redis", text, "set `appendfsync always`")
    else:
        yield ok("redis", "its append-only file is on and written")
    policy = str(facts.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        text = f"maxmemory-policy {policy}: full memory makes jobs vanish without an error"
        yield fail("redis", text, "set `maxmemory-policy noeviction`")
    used, most = int(facts.get("used_memory", 0)), int(facts.get("maxmemory", 0))
    if most and used > NEARLY_FULL * most:
        text = f"{used / most:.0%} of its memory is used"
        yield warn("redis", text, "raise maxmemory, or shorten short.result_ttl and failure_ttl")


def _fsync(connection: Any) -> str:
    try:
        return str(connection.config_get("appendfsync").get("appendfsync", ""))
    except AWAY:  # a user without that right
        return ""
