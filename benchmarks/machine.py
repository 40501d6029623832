"""Processes and Redis: starting and ending what a benchmark needs, and reading what it costs.

Owns /proc and INFO. Whatever is started here is ended here, by its own pid.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import redis

ROOT = Path(__file__).parent.parent
TICKS = os.sysconf("SC_CLK_TCK")


class PatienceError(Exception):
    """What was waited for did not come."""


def until(condition: Callable[[], object], what: str, limit: float = 60.0, pause: float = 0.01) -> None:
    """Poll until ``condition()`` is true."""
    give_up = time.monotonic() + limit
    while not condition():
        if time.monotonic() > give_up:
            raise PatienceError(f"after {limit:g} s still not: {what}")
        time.sleep(pause)


class Redis:
    """A Redis server of our own on a unix socket in a private folder: no port, nothing to listen to.

    ``persistence``: ``none``, ``everysec`` or ``always`` (what hpcpools gives its own Redis).
    """

    def __init__(self, folder: Path, persistence: str) -> None:
        self.socket = folder / "r.sock"
        self.url = f"unix://{self.socket}"
        keep = ["--appendonly", "no"] if persistence == "none" else ["--appendonly", "yes"]
        keep += [] if persistence == "none" else ["--appendfsync", persistence]
        program = shutil.which("redis-server")
        if program is None:
            raise PatienceError("redis-server is not on PATH")
        options = ["--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "600"]
        self._process = subprocess.Popen(
            [program, *options, "--save", "", "--dir", str(folder), *keep],
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.client = redis.Redis(unix_socket_path=str(self.socket))
        until(self._answers, "Redis answers")

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def round_trips(self) -> int:
        """Requests that the server has read so far, each maybe of many commands; this one counts too."""
        return int(self.client.info("stats")["total_reads_processed"])

    def stop(self) -> None:
        """End it; what it held is gone with its folder."""
        self.client.close()
        end(self._process)


def start(argv: list[str], env: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own; what it says goes to ``log``."""
    with log.open("ab") as out:
        return subprocess.Popen(
            argv,
            cwd=log.parent,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


def end(process: subprocess.Popen[bytes], grace: float = 15.0) -> None:
    """SIGTERM to the program, SIGKILL to what is left of its session after ``grace`` seconds."""
    family = [process.pid, *descendants(process.pid)]
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    for pid in family:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == process.pid:
                os.kill(pid, signal.SIGKILL)
    process.wait()


def descendants(pid: int) -> Iterator[int]:
    """Pids of all processes below ``pid``."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return
    for child in map(int, children):
        yield child
        yield from descendants(child)


def tree(processes: list[subprocess.Popen[bytes]]) -> list[int]:
    """Pids of programs and all their descendants."""
    return [pid for process in processes for pid in (process.pid, *descendants(process.pid))]


def pss(pids: list[int]) -> float:
    """Proportional set size in MiB: memory that processes share is counted once among them."""
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024


def bare_pss(module: str) -> float:
    """PSS in MiB of one process that imports a module and does nothing else."""
    code = f"import sys, {module}; print(flush=True); sys.stdin.read()"
    argv, pipe = [sys.executable, "-c", code], subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, env=environment()) as process:
        assert process.stdout
        process.stdout.readline()
        return pss([process.pid])


def cpu(pids: list[int]) -> float:
    """Seconds of CPU, user and system, that living processes have used, their dead children included."""
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))
    return total / TICKS


def environment(**more: str) -> dict[str, str]:
    """Ours, without anybody's hpcpools or Slurm settings; Python finds this repository."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HPCPOOLS_", "SLURM_", "PYTHON"))}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def program(name: str) -> str:
    """A command of this environment, such as ``celery``."""
    return str(Path(sys.executable).with_name(name))


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A private folder with a short path: a unix socket's is limited to about 100 bytes."""
    path = Path(tempfile.mkdtemp(prefix="hpb-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
