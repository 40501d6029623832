"""The table of services: what each runs, what it needs first, when it is ready, how long it may take to end.

Owns names, order and commands. Refuses nothing: the supervisor acts on it, this is data.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from msgspec import Struct

from hpcpools import atomic
from hpcpools.config import Config, environment
from hpcpools.redisdb import embedded, runtime

Engine = Literal["slurm", "local"]

# What `python -m hpcpools.services.run NAME` calls: a module with run(config).
MODULES = {
    "short": "hpcpools.short.pool",
    "scheduler": "hpcpools.short.schedule",
    "lane": "hpcpools.lane.service",
    "slot": "hpcpools.training.slot",
    "exporter": "hpcpools.monitoring.service",
    "dashboard": "hpcpools.dashboard.service",
}
_GRACE = {"short": 10.0, "scheduler": 5.0, "lane": 10.0, "slot": 10.0, "exporter": 5.0, "dashboard": 5.0}


class Service(Struct, frozen=True):
    """One long-lived process.

    ``command`` prepares the place and returns the argv; it may raise HpcpoolsError, which is shown and
    tried again later. ``ready`` is asked with the child's pid until it is True, then the child must live
    ``settle`` more seconds. ``grace`` is the time in seconds between SIGTERM and SIGKILL. ``lock``, if
    given, is held by the child itself, so that a second one cannot start while the first still dies.
    """

    name: str
    command: Callable[[], Sequence[str]]
    requires: tuple[str, ...] = ()
    ready: Callable[[int], bool] = lambda pid: True
    settle: float = 0.5
    grace: float = 5.0
    env: Mapping[str, str] = {}
    lock: Path | None = None
    warning: Callable[[], str] = lambda: ""


def services(config: Config) -> tuple[Service, ...]:
    """Every service this config can have, in the order in which they start."""
    own = (_redis(config),) if runtime.uses_own_redis(config) else ()
    redis = tuple(service.name for service in own)
    there = {"lane": config.has_lane, "exporter": config.exporter.enabled}
    there["dashboard"] = config.dashboard.enabled
    needs = {"exporter": (), "dashboard": ()}  # they tell that Redis is away
    names = (name for name in MODULES if there.get(name, True))
    return (*own, *(_python(config, name, needs.get(name, redis)) for name in names))


def default_names(config: Config, engine: Engine) -> tuple[str, ...]:
    """What a bare `hpcpools up` starts; the training slot only without Slurm, the lane only with it."""
    there = {"slot": engine == "local", "lane": engine == "slurm"}
    return tuple(s.name for s in services(config) if there.get(s.name, True))


def ready_mark(config: Config, name: str) -> Path:
    """The file in which a Python service says that it was imported and is about to run."""
    return config.runtime_dir / f"ready-{name}.json"


def base_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of every service: the user's, with no module search in the current folder (SEC-13).

    Relative parts of PYTHONPATH are resolved against the caller's folder, which the service leaves.
    """
    env = {**environment, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
    parts = [str(Path(part).absolute()) for part in env.pop("PYTHONPATH", "").split(os.pathsep) if part]
    if parts:
        env["PYTHONPATH"] = os.pathsep.join(parts)
    return env


def _redis(config: Config) -> Service:
    listen = runtime.own_socket(config)
    return Service(
        name="redis",
        command=lambda: embedded.prepare(config, environment().get("PATH", "")),
        ready=lambda pid: embedded.answers(listen),
        settle=0.0,
        # A locale that is set but not installed stops a Redis 7.
        env={"LC_ALL": "C"},
        lock=config.runtime_dir / "redis.lock",
        warning=partial(embedded.warning, config),
    )


def _python(config: Config, name: str, requires: tuple[str, ...]) -> Service:
    argv = (sys.executable, "-m", "hpcpools.services.run", name, "--config", config.file, "--json-log")
    mark = ready_mark(config, name)
    return Service(
        name=name,
        command=lambda: argv,
        requires=requires,
        ready=lambda pid: _marked(mark) == pid,
        grace=_GRACE[name],
    )


def _marked(mark: Path) -> int | None:
    try:
        value = atomic.read_json(mark)
    except ValueError:
        return None
    return value.get("pid") if isinstance(value, dict) else None
