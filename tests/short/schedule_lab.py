"""A private Redis and real scheduler processes for the tests of the schedule; all ends with the test."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import redis

from hpcpools import config as configuration
from hpcpools.config import Config
from hpcpools.redisdb import keys
from hpcpools.schema import DEFAULT_SCHEDULE
from hpcpools.short import timetable

T = TypeVar("T")

ENTRIES = "rq:scheduler:scheduled_jobs"
QUEUE = "rq:queue:maintenance"
TASKS = """
from pathlib import Path
from hpcpools import task, training

@task(queue="maintenance", result_ttl="1h")
def beat(word: str = "tick") -> str:
    return word

@task(queue="maintenance")
def needy(path: str) -> None: ...

@task(queue="maintenance")
def flaky(path: str) -> str:
    if not Path(path).exists():
        Path(path).touch()
        raise RuntimeError("the first time")
    return "the second time"

@training
def long(run) -> None: ...
"""
OFF = "\n".join(f"[schedule.{name}]\nenabled = false\nevery = 60" for name in DEFAULT_SCHEDULE)
_SERVE = (
    "import sys; from pathlib import Path; from hpcpools import config; from hpcpools.short import {0}; "
    "sys.exit({0}.run(config.load(Path(sys.argv[1])){1}))"
)


def eventually(check: Callable[[], T], seconds: float = 15.0) -> T:
    """The first true value of ``check``; fails after ``seconds``."""
    until = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < until, "the condition did not come true"
        time.sleep(0.02)
    return found


class Service:
    """One process of ours, with its log."""

    def __init__(self, module: str, config: Config, log: Path, options: str = "", **env: str) -> None:
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SERVE.format(module, options), config.file],
            stdout=subprocess.DEVNULL,
            stderr=log.open("w"),
            env={**os.environ, **env},
        )

    @property
    def name(self) -> str:
        """How the lease calls it."""
        return f"{os.uname().nodename.split('.')[0]}:{self.process.pid}"

    def send(self, number: signal.Signals) -> None:
        """Send a signal to this process."""
        self.process.send_signal(number)

    def events(self, action: str) -> list[str]:
        """The lines of its log that report ``action``."""
        return re.findall(rf"^.*\baction={action}\b.*$", self.log.read_text(), re.MULTILINE)

    def says(self, action: str, pattern: str) -> bool:
        """Whether a line that reports ``action`` matches ``pattern``."""
        return any(re.search(pattern, line) for line in self.events(action))

    def slots(self) -> list[int]:
        """Every slot it says it fired."""
        return [int(line.partition(" slot=")[2].split()[0]) for line in self.events("fire")]

    def end(self, seconds: float = 10.0) -> int:
        """SIGTERM, wait, and return its exit code."""
        if self.process.poll() is None:
            self.send(signal.SIGTERM)
            self.send(signal.SIGCONT)
        try:
            return self.process.wait(seconds)
        finally:
            self.process.kill()
            self.process.wait()


class Lab:
    """A project folder with declared tasks, its Redis on a private socket, and schedulers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "run").mkdir(mode=0o700)
        (folder / "beats.py").write_text(TASKS)
        self.socket = folder / "run" / "redis.sock"
        self.services: list[Service] = []
        self._redis: subprocess.Popen[bytes] | None = None
        self.start_redis()
        self.connection = redis.Redis(unix_socket_path=str(self.socket))

    def configure(self, **schedules: str) -> Config:
        """The config with these schedules (``name='every = 1'``) of the task ``beats:beat``."""
        tables = "\n".join(
            f'[schedule.{name}]\ntask = "beats:beat"\n{text}' for name, text in schedules.items()
        )
        file = self.folder / "hpcpools.toml"
        file.write_text(
            '[project]\nmodules = ["beats"]\n[services]\nruntime_dir = "run"\nautostart = false\n'
            f"{OFF}\n{tables}\n"
        )
        return configuration.load(file)

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `hpcpools schedule` with ``words`` on the config that was written last."""
        argv = [sys.executable, "-m", "hpcpools", "--config", str(self.folder / "hpcpools.toml"), "schedule"]
        return subprocess.run([*argv, *words], capture_output=True, text=True, check=False, timeout=60)

    def listed(self) -> dict[str, Any]:
        """What `hpcpools schedule --json` prints, its schedules by name."""
        done = self.cli("--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return {**found, "schedules": {row["name"]: row for row in found["schedules"]}}

    def start_redis(self) -> None:
        """Start it, with an append-only file, and wait until it answers."""
        options = (
            f"--port 0 --unixsocket {self.socket} --unixsocketperm 600 --dir {self.folder / 'run'} --save"
        )
        self._redis = subprocess.Popen(
            ["redis-server", *options.split(), "", "--appendonly", "yes", "--appendfsync", "always"],
            stdout=subprocess.DEVNULL,
        )
        ping = ["redis-cli", "-s", str(self.socket), "ping"]
        eventually(lambda: subprocess.run(ping, capture_output=True, check=False).stdout == b"PONG\n")

    def kill_redis(self) -> None:
        """SIGKILL it."""
        assert self._redis
        self._redis.kill()
        self._redis.wait()

    def service(self, module: str, config: Config, options: str = "", **env: str) -> Service:
        """Start a process that runs ``hpcpools.short.MODULE.run(config)``."""
        log = self.folder / f"{module}-{len(self.services)}.log"
        self.services.append(Service(module, config, log, options, **env))
        return self.services[-1]

    def scheduler(self, config: Config, **env: str) -> Service:
        """Start a scheduler."""
        return self.service("schedule", config, **env)

    def entry(self, name: str) -> float:
        """When rq-scheduler's entry of a schedule is due next; 0 if there is none."""
        return float(self.connection.zscore(ENTRIES, f"schedule-{name}") or 0)

    def record(self, name: str) -> timetable.Record:
        """What the scheduler remembers of a schedule."""
        return timetable.records(self.connection, [name])[name]

    def serve(self) -> list[str]:
        """Take all job ids out of the queue, as workers would."""
        ids = self.connection.lpop(QUEUE, 1000) or []
        return [each.decode() for each in ids if isinstance(each, bytes)]

    def holder(self) -> str:
        """host:pid of the lease's owner, "" if it is free."""
        token = self.connection.get(keys.SCHEDULER_LEASE) or b""
        assert isinstance(token, bytes)
        return token.decode().rpartition(":")[0]

    def close(self) -> None:
        """End every process."""
        for service in self.services:
            service.process.kill()
            service.process.wait()
        self.connection.close()
        self.kill_redis()
