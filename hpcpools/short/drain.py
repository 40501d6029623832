"""Letting the short pool run dry before it is stopped: it takes no new jobs, and those at hand end.

Owns the mark under which rq counts as suspended meanwhile. The mark dies by itself soon after the process
that holds it, and is never one that somebody else has set.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rq.suspension import WORKERS_SUSPENDED

from hpcpools.config import Config
from hpcpools.redisdb.connect import connect
from hpcpools.redisdb.outage import told
from hpcpools.short import views
from hpcpools.short.recovery import name_prefix

if TYPE_CHECKING:
    from redis import Redis

MARK = b"drain"  # `hpcpools suspend` and rq write 1
KEPT = 60  # seconds: longer than the pool takes to stop once it is told to
LOOK = 0.5  # seconds between two looks
Heed = Callable[[int], None]  # hears how many jobs still run


class Drain:
    """A pool that takes no new jobs; get it from :func:`held`."""

    def __init__(self, config: Config, connection: Redis) -> None:
        self._config = config
        self._connection = connection

    def wait(self, timeout: float, heed: Heed = lambda _running: None) -> int:
        """Return once no job of this host's pool runs, or after ``timeout`` seconds; how many still run.

        Raises RedisUnavailableError.
        """
        deadline = time.monotonic() + timeout
        while True:
            self._hold()
            running = self._running()
            heed(running)
            if not running or time.monotonic() >= deadline:
                return running
            time.sleep(LOOK)

    def _running(self) -> int:
        prefix = name_prefix(self._config)
        return sum(bool(each.job) and each.name.startswith(prefix) for each in views.workers(self._config))

    def _hold(self) -> None:
        """Set the mark, or keep it; a suspension of somebody else's does as well while it lasts."""
        with told():
            if not self._connection.set(WORKERS_SUSPENDED, MARK, nx=True, ex=KEPT) and self._ours():
                self._connection.expire(WORKERS_SUSPENDED, KEPT)

    def _release(self) -> None:
        with told():
            if self._ours():
                self._connection.delete(WORKERS_SUSPENDED)

    def _ours(self) -> bool:
        return bool(self._connection.get(WORKERS_SUSPENDED) == MARK)


@contextlib.contextmanager
def held(config: Config) -> Iterator[Drain]:
    """The pool takes no new jobs in this block; on any way out it takes them again, if it still runs.

    Raises RedisUnavailableError.
    """
    with connect(config) as connection:
        drain = Drain(config, connection)
        drain._hold()
        try:
            yield drain
        finally:
            drain._release()
