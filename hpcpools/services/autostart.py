"""On a laptop the services are started for the user; on a login node that is the user's decision."""

from __future__ import annotations

from collections.abc import Callable

from hpcpools.config import Config
from hpcpools.redisdb.runtime import uses_own_redis
from hpcpools.services import control
from hpcpools.training import engine

Note = Callable[[str], None]
TEXT = "starting the local services (`hpcpools down` stops them)"


def for_training(config: Config, note: Note = lambda _text: None) -> None:
    """A local run needs the slot. Raises UnavailableError if it does not start."""
    if not config.services.autostart:
        return
    if not any(state.name == "slot" and state.state == "running" for state in control.ps(config)):
        note(TEXT)
        control.up(config, engine="local")


def for_short(config: Config, note: Note = lambda _text: None) -> None:
    """A short job needs Redis and the pool, where there is no Slurm and the Redis is ours."""
    if not config.services.autostart or not uses_own_redis(config) or control.running(config):
        return
    if engine.choose(config) == "local":
        note(TEXT)
        control.up(config, engine="local")
