"""The short pool in the foreground: preload once, then one supervisor and its children.

Owns the lock that makes the pool the only one of its runtime directory. Refuses to start while any process of
an earlier pool still lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import os
import sys
import time
from collections.abc import Iterator

from hpcpools import catalog, eventlog
from hpcpools.config import Config
from hpcpools.errors import ConfigError, RefusedError
from hpcpools.eventlog import event, log
from hpcpools.redisdb import runtime
from hpcpools.redisdb.connect import connect
from hpcpools.short import job
from hpcpools.short.supervisor import Supervisor
from hpcpools.textsafe import one_line

LOCK_NAME = "short.lock"
LOCK_PATIENCE = 5.0  # seconds: processes of a pool that was just killed need a moment to be gone
GRACE = 7.0  # seconds from SIGTERM until tasks that still run are killed and their jobs put back


def run(config: Config, *, burst: bool = False, workers: int | None = None, grace: float = GRACE) -> int:
    """Run the pool until SIGTERM or SIGINT.

    The first signal lets running tasks end for ``grace`` seconds; a second, or the end of that time, kills
    them and puts their jobs back. ``burst``: return when the queues are empty. ``workers``: how many,
    instead of the config's number.

    Must be called in the main thread of a process that has no children of its own. Returns 0.
    Raises RefusedError if another pool runs here, ConfigError, PermissionsError, RedisUnavailableError.
    """
    eventlog.to_stderr()
    runtime.secure_directory(config.runtime_dir)
    with _only_one(config):
        _preload(config)
        job_class = job.bind(config, catalog.load(config))
        if (torch := sys.modules.get("torch")) and torch.cuda.is_initialized():
            log.warning(
                event("cuda-before-fork", hint="a module initialises CUDA on import; no task can use it")
            )
        connect(config).close()
        gc.set_threshold(700, 10, 10)  # Python's own: a command collects later, tasks shall not
        gc.collect()
        gc.freeze()  # what was loaded so far stays shared with the workers' memory
        Supervisor(job_class, workers, burst, grace).run()
    return 0


def _preload(config: Config) -> None:
    """Import what the tasks import, once, so that every fork finds it there. Raises ConfigError."""
    catalog.add_to_path(config.python_path)
    for name in config.short.preload:
        try:
            importlib.import_module(name)
        except Exception as error:
            raise ConfigError(
                f"{config.file}: short.preload: {name!r} does not import: "
                f"{type(error).__name__}: {one_line(str(error))}",
                hint="install it in this environment, or take it off the list",
            ) from error


@contextlib.contextmanager
def _only_one(config: Config) -> Iterator[None]:
    """Hold the pool's lock. Workers and tasks inherit it, so it is free only when all of them are gone."""
    path = config.runtime_dir / LOCK_NAME
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        give_up = time.monotonic() + LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise RefusedError(
                        f"another short pool, or a process it left, still runs here (it holds {path})",
                        hint=f"`hpcpools ps` shows it; `fuser {path}` names the process",
                    ) from None
                time.sleep(0.05)
        yield
    finally:
        os.close(fd)
