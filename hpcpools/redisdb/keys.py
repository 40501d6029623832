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


FORMAT = key("format")  # string: the format of all that is in this Redis; missing: 1, the first
INDEX = key("index")  # hash: run token → summary as JSON, rebuilt from the run directories when gone
INDEX_DRAFT = key("index", "draft")  # hash: the index while `hpcpools reconcile` makes it anew
INDEX_AS_OF = key("index", "as_of")  # string: epoch seconds of the last update
SCHEDULER_LEASE = key("scheduler", "lease")  # string with a TTL: the owner token of the one live scheduler


def slot(schedule: str, number: int) -> str:
    """String with a TTL: set once by whoever fires ``schedule`` for time slot ``number``."""
    return key("slot", schedule, str(number))
