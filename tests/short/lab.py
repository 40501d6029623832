"""A real Redis on a private socket and a real pool in processes of its own: what these tests work on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from hpcpools import config as configuration
from hpcpools.config import Config
from hpcpools.short.enqueue import Client, ShortJob

ROOT = Path(__file__).parents[2]
TASKS = "tests.short.tasks_for_tests"
_POOL = (
    "import sys; from pathlib import Path; from hpcpools import config; from hpcpools.short import pool; "
    "sys.exit(pool.run(config.load(Path(sys.argv[1])), burst='burst' in sys.argv))"
)


def wait_for(condition: Callable[[], Any], what: str, limit: float = 30.0) -> Any:
    """Poll until ``condition()`` is true; its value."""
    give_up = time.monotonic() + limit
    while time.monotonic() < give_up:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"after {limit} s still not: {what}")


class Lab:
    """One Redis, one config, any number of pools one after the other."""

    def __init__(self, folder: Path, workers: int = 2) -> None:
        self.folder = folder
        self.socket = folder / "r.sock"
        self.log = folder / "tasks.log"
        self._processes: list[subprocess.Popen[bytes]] = []
        file = folder / "hpcpools.toml"
        url = f"unix://{self.socket}"
        file.write_text(
            f'[project]\nmodules = ["{TASKS}"]\n[short]\nworkers = {workers}\n'
            f'[redis]\nurl = "{url}"\n[services]\nruntime_dir = "run"\n'
        )
        data = {
            "project": {"modules": [TASKS]},
            "short": {"workers": workers},
            "redis": {"url": url},
            "services": {"runtime_dir": "run"},
        }
        self.config: Config = configuration.parse(data, file, {})
        self.start_redis()
        self.redis = Redis(unix_socket_path=str(self.socket))
        self.client = Client(self.config)

    def start_redis(self) -> None:
        """Start Redis on the socket, with its append-only file."""
        program = shutil.which("redis-server")
        assert program, "the tests need redis-server on PATH"
        options = f"--port 0 --unixsocket {self.socket} --unixsocketperm 600 --appendonly yes "
        options += "--appendfsync always --save"  # as in our own redis.conf
        self.server = subprocess.Popen(
            [program, *options.split(), "", "--dir", str(self.folder)], stdout=subprocess.DEVNULL
        )
        self._processes.append(self.server)
        probe = Redis(unix_socket_path=str(self.socket))
        wait_for(lambda: _answers(probe), "Redis answers")
        probe.close()

    def start_pool(self, *words: str, workers: int | None = None) -> subprocess.Popen[bytes]:
        """Start a pool; its events go to pool.log."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("HPCPOOLS_")}
        if workers:
            env["HPCPOOLS_SHORT__WORKERS"] = str(workers)
        with (self.folder / "pool.log").open("ab") as out:
            pool = subprocess.Popen(
                [sys.executable, "-c", _POOL, self.config.file, *words],
                cwd=ROOT,
                env=env,
                stdout=out,
                stderr=out,
            )
        self._processes.append(pool)
        return pool

    def events(self) -> str:
        """What the pools said so far."""
        path = self.folder / "pool.log"
        return path.read_text() if path.exists() else ""

    def enqueue(self, function: str, **arguments: Any) -> ShortJob:
        """Enqueue one of the test tasks, with the path of the log as its first argument."""
        return self.client.enqueue(f"{TASKS}:{function}", {"log": str(self.log), **arguments})

    def lines(self) -> list[list[str]]:
        """The words of each line that tasks wrote, in order."""
        return [line.split() for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def workers(self) -> dict[str, int]:
        """Name and pid of the registered workers."""
        keys = [key.decode() for key in self.redis.smembers("rq:workers") if isinstance(key, bytes)]
        pids = {key: self.redis.hget(key, "pid") for key in keys}
        return {key.removeprefix("rq:worker:"): int(pid) for key, pid in pids.items() if pid}

    def wait_idle_workers(self, number: int) -> dict[str, int]:
        """The workers, once ``number`` of them are registered."""

        def enough() -> dict[str, int]:
            found = self.workers()
            return found if len(found) == number else {}

        found: dict[str, int] = wait_for(enough, f"{number} workers")
        return found

    def stop(self) -> None:
        """End everything that this lab started."""
        for started in sorted(self._processes, key=lambda process: "redis" in str(process.args)):
            if started.poll() is None:
                started.send_signal(signal.SIGTERM)
                try:
                    started.wait(15)
                except subprocess.TimeoutExpired:
                    started.kill()
                    started.wait()
        self.redis.close()
        self.client.connection.close()


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int) -> list[int]:
    """Pids of the direct children."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def descendants(pid: int) -> Iterator[int]:
    """Pids of all processes below ``pid``."""
    for child in children(pid):
        yield child
        yield from descendants(child)


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except (RedisConnectionError, OSError):
        return False
