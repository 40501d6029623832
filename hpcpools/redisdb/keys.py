"""Our own key names in Redis, in one place; RQ and rq-scheduler keep theirs (``rq:``).

Owns the prefix and the names. Refuses parts that could reach into another name.
"""

from __future__ import annotations

PREFIX = "hp:"


def key(*parts: str) -> str:
    """``key("run", token)`` → ``hp:run:TOKEN``. Raises ValueError for an empty part."""
    if not parts or not all(parts):
        raise ValueError(f"empty part in a key name: {parts!r}")
    return PREFIX + ":".join(parts)


RUNS = key("runs")  # sorted set: run token by time of submission, the index `reconcile` rebuilds
SCHEDULER_LEASE = key("scheduler", "lease")  # string with a TTL: the owner token of the one live scheduler
SCHEDULER_BEAT = key("scheduler", "beat")  # hash: when each schedule last fired
WORKERS = key("workers")  # hash: what each short worker does now


def run(token: str) -> str:
    """Hash: the indexed facts of one run, each with its age."""
    return key("run", token)


def slot(schedule: str, number: int) -> str:
    """String with a TTL: set once by whoever fires ``schedule`` for time slot ``number``."""
    return key("slot", schedule, str(number))
