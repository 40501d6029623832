"""The short pool in the foreground: one supervisor, N workers, every job of a dead worker back at once.

Owns the worker processes and the lock that makes the pool the only one of its runtime directory. Refuses to
start while any process of an earlier pool still lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import os
import secrets
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hpcpools import catalog, eventlog
from hpcpools.config import Config
from hpcpools.errors import ConfigError, HpcpoolsError, RefusedError
from hpcpools.eventlog import event, log
from hpcpools.redisdb import runtime
from hpcpools.redisdb.connect import connect
from hpcpools.redisdb.outage import AWAY, told
from hpcpools.short import job, process
from hpcpools.short.job import HpcJob
from hpcpools.short.process import Board, Signals
from hpcpools.short.recovery import Recovery, name_prefix
from hpcpools.short.worker import COLD, HpcWorker
from hpcpools.textsafe import one_line

LOCK_NAME = "short.lock"
LOCK_PATIENCE = 5.0  # seconds: processes of a pool that was just killed need a moment to be gone
GRACE = 7.0  # seconds from SIGTERM until tasks that still run are killed and their jobs put back
COLD_GRACE = 2.0  # seconds for that
SWEEP = 3.0  # seconds between two sweeps
TICK = 0.5  # seconds: the longest the supervisor sleeps
SETTLED = 5.0  # seconds a worker must have lived for the next one to start without delay
LONGEST_DELAY = 5.0  # seconds between two starts of a worker that keeps dying


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
        gc.collect()
        gc.freeze()  # what was loaded so far stays shared with the workers' memory
        return _Supervisor(job_class, workers or config.short.workers, burst, grace).run()


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


@dataclass
class _Slot:
    """The place of one worker. A name without a pid: dead, and what it held is not yet put back."""

    line: int
    pid: int = 0
    name: str = ""
    started: float = 0.0
    quick_deaths: int = 0
    not_before: float = 0.0
    done: bool = False  # it ended by itself in a burst


class _Supervisor:
    def __init__(self, job_class: type[HpcJob], workers: int, burst: bool, grace: float) -> None:
        self._config = job_class.config
        self._job_class = job_class
        self._burst = burst
        self._grace = grace
        self._board = Board(workers)
        self._slots = [_Slot(line) for line in range(workers)]
        self._signals = Signals((signal.SIGTERM, signal.SIGINT))
        self._recovery = Recovery(connect(self._config), job_class)
        self._prefix = name_prefix(self._config)
        self._stop_at = 0.0  # when the next, harder step of stopping is due
        self._step = 0  # 0 running, 1 warm, 2 cold, 3 kill

    def run(self) -> int:
        process.adopt_orphans()
        with told():
            self._recovery.sweep((), first=True)
        log.info(event("pool-start", workers=len(self._slots), queues=",".join(self._config.short.queues)))
        next_sweep = time.monotonic() + SWEEP
        while True:
            self._stop_if_asked()
            self._tend()
            if all(not slot.pid and (slot.done or self._step) for slot in self._slots):
                break
            if time.monotonic() >= next_sweep:
                next_sweep = time.monotonic() + SWEEP
                self._try(self._sweep)
            self._signals.wait(self._nap())
        self._try(self._sweep)
        log.info(event("pool-end"))
        return 0

    def _tend(self) -> None:
        """Bury dead workers with their tasks, give back what they held, start new ones."""
        for slot in self._slots:
            if slot.pid and process.has_ended(slot.pid):
                self._bury(slot)
            if slot.name and not slot.pid and self._task_is_gone(slot) and self._try(self._recover):
                slot.name = ""
            if not (slot.pid or slot.name or slot.done or self._step) and time.monotonic() >= slot.not_before:
                self._start(slot)
        known = {slot.pid for slot in self._slots} | {self._board.pid(slot.line) for slot in self._slots}
        process.reap_strangers(known)

    def _bury(self, slot: _Slot) -> None:
        code = process.reap(slot.pid)
        lived = time.monotonic() - slot.started
        slot.pid = 0
        slot.done = self._burst and code == 0
        slot.quick_deaths = slot.quick_deaths + 1 if lived < SETTLED else 0
        delay = min(0.1 * 2**slot.quick_deaths, LONGEST_DELAY) if slot.quick_deaths else 0.0
        slot.not_before = time.monotonic() + delay
        (log.info if code == 0 else log.error)(event("worker-end", worker=slot.name, code=code))

    def _task_is_gone(self, slot: _Slot) -> bool:
        """True once the dead worker's task, which is our child now, has ended too."""
        pid = self._board.pid(slot.line)
        if not pid:
            return True
        process.kill_group(pid)
        if not process.has_ended(pid):
            return False
        self._board.write(slot.line, 0)
        process.reap(pid)
        return True

    def _start(self, slot: _Slot) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        slot.name = f"{self._prefix}{slot.line}-{secrets.token_hex(4)}"
        slot.started = time.monotonic()
        self._board.write(slot.line, 0)
        parent = os.getpid()
        pid = os.fork()
        if pid:
            slot.pid = pid
            return
        code = 70
        try:
            process.die_with_parent(parent)
            process.forget_signals()
            worker = HpcWorker(
                slot.name,
                connection=connect(self._config),
                job_class=self._job_class,
                board=self._board,
                line=slot.line,
            )
            worker.serve(burst=self._burst)
            code = 0
        except HpcpoolsError as error:
            log.error(event("worker-fail", worker=slot.name, error=error))
            code = error.exit_code
        except BaseException:
            log.error(event("worker-fail", worker=slot.name, trace=traceback.format_exc()[-2000:]))
        finally:
            os._exit(code)

    def _live(self) -> set[str]:
        """Names whose worker or task may still run; a dead one whose task is gone is not among them."""
        return {slot.name for slot in self._slots if slot.pid or self._board.pid(slot.line)}

    def _stop_if_asked(self) -> None:
        asked = sum(self._signals.counts.values())
        due = self._step and time.monotonic() >= self._stop_at
        if not (asked > self._step and self._step < 2) and not due:
            return
        self._step += 1
        patience = self._grace if self._step == 1 else COLD_GRACE
        self._stop_at = time.monotonic() + patience
        number = (signal.SIGTERM, COLD, signal.SIGKILL)[min(self._step, 3) - 1]
        log.info(event("pool-stop", signal=number.name, patience=patience))
        for slot in self._slots:
            if slot.pid:
                os.kill(slot.pid, number)

    def _nap(self) -> float:
        waiting = any(slot.name and not slot.pid for slot in self._slots)
        return 0.05 if waiting else TICK

    def _recover(self) -> None:
        self._recovery.recover(self._live())

    def _sweep(self) -> None:
        self._recovery.sweep(self._live())

    def _try(self, effect: Callable[[], None]) -> bool:
        try:
            effect()
        except AWAY as error:
            log.warning(event("redis-away", error=error))
            return False
        return True


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
