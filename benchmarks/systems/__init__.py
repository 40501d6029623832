"""The systems under test: how each one's workers are started, all from one environment and one Redis.

A system's own module beside this one holds its tasks and its client, and is imported only by its own
processes. Every system gets the same unix socket, 4 workers, its defaults, and logs from WARNING on.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from benchmarks.machine import program

WORKERS = 4
SOCKET, TASKS = "BENCH_SOCKET", "BENCH_TASKS"  # for the systems' modules, in the environment
Commands = Callable[[Path], list[list[str]]]


@dataclass(frozen=True)
class System:
    """One system. ``app``: its module here; ``share``: of the tasks, for one that is slow.

    ``tasks``: a module of tasks of its own; ``kind``: the only kind of task that it is measured with.
    ``settings``: lines for ``[short]`` of the project that hpcpools serves.
    """

    name: str
    app: str
    commands: Commands  # argv of each program to start, given the folder it runs in
    share: float = 1.0
    torch_share: float = 1.0
    persistence: str = ""  # instead of that of the run
    tasks: str = ""
    kind: str = ""
    settings: str = ""

    def tasks_for(self, kind: str) -> str:
        """The name of the tasks' module for a kind; empty if it is not measured with that."""
        return (self.tasks or kind) if self.kind in ("", kind) else ""

    def environment(self, socket: Path, tasks: str) -> Mapping[str, str]:
        """What its processes are told."""
        return {SOCKET: str(socket), TASKS: f"benchmarks.tasks_{tasks}"}


def noop() -> Callable[[int], int]:
    """The task to serve, from the module that this process was told; only in a system's own process."""
    found: Callable[[int], int] = import_module(os.environ[TASKS]).noop
    return found


def socket_path() -> str:
    """The Redis to use; only in a system's own process."""
    return os.environ[SOCKET]


def _hpcpools(folder: Path) -> list[list[str]]:
    return [[sys.executable, "-m", "hpcpools", "--config", str(folder / "hpcpools.toml"), "worker"]]


def _rq(folder: Path) -> list[list[str]]:
    url = f"unix://{folder / 'r.sock'}"
    return [
        [sys.executable, "-m", "rq.cli", "worker", "--url", url, "--quiet", "default"] for _ in range(WORKERS)
    ]


def _celery(_folder: Path) -> list[list[str]]:
    app = "benchmarks.systems.celery_app"
    options = ["--pool", "prefork", "-c", str(WORKERS), "-l", "WARNING"]
    return [[program("celery"), "-A", app, "worker", *options]]


def _huey(_folder: Path) -> list[list[str]]:
    app = "benchmarks.systems.huey_app.huey"
    return [[program("huey_consumer"), app, "-w", str(WORKERS), "-k", "process", "-q"]]


def _taskiq(_folder: Path) -> list[list[str]]:
    app = "benchmarks.systems.taskiq_app:broker"
    return [[program("taskiq"), "worker", app, "--workers", str(WORKERS), "--log-level", "WARNING"]]


def _dramatiq(_folder: Path) -> list[list[str]]:
    return [[program("dramatiq"), "benchmarks.systems.dramatiq_app", "-p", str(WORKERS), "-t", "1"]]


BASE = "celery"  # what the ratios refer to
LATE = "celery, import in the task"
UNSIGNED = "hpcpools, unsigned"
SYSTEMS = {
    each.name: each
    for each in (
        System("hpcpools", "hpcpools_app", _hpcpools),
        System("hpcpools, fsync", "hpcpools_app", _hpcpools, persistence="always"),
        System("hpcpools, not niced", "hpcpools_app", _hpcpools, kind="plain", settings="nice = 0"),
        System(UNSIGNED, "hpcpools_app", _hpcpools, tasks="unsigned", kind="plain"),
        System("rq", "rq_app", _rq, share=0.4, torch_share=0.04),
        System("celery", "celery_app", _celery),
        System(LATE, "celery_app", _celery, tasks="torch_late", kind="torch"),
        System("huey", "huey_app", _huey),
        System("taskiq", "taskiq_app", _taskiq),
        System("dramatiq", "dramatiq_app", _dramatiq),
    )
}
