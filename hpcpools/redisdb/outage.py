"""What redis-py raises while Redis is away: the work is not wrong, it has to wait.

Owns the names of those errors and the patience. Refuses to hide any other error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import redis.exceptions

from hpcpools.errors import RedisUnavailableError, RefusedError
from hpcpools.textsafe import one_line

# Away, loading its file after a restart, read-only or full: the same command may succeed a little later.
AWAY = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.ResponseError,
)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Turn :data:`AWAY` into RedisUnavailableError (or RefusedError), for callers that a person waits for."""
    try:
        yield
    except redis.exceptions.OutOfMemoryError:
        raise RedisUnavailableError(
            "Redis is full and takes no more jobs", hint="let the workers catch up, or raise its maxmemory"
        ) from None
    except redis.exceptions.NoPermissionError as error:
        raise RefusedError(
            f"Redis refuses this user: {one_line(str(error))}", hint="see redis.url and docs/shared-redis.md"
        ) from None
    except AWAY as error:
        raise RedisUnavailableError(
            f"Redis does not answer: {one_line(str(error))}", hint="`hpcpools ps` shows whether it runs"
        ) from None


def delays(first: float = 0.1, longest: float = 5.0) -> Iterator[float]:
    """Seconds to wait before each next try: doubling, without end."""
    while True:
        yield first
        first = min(first * 2, longest)
