"""REL-7: the disk fills up under Redis and the logs: nothing acknowledged is lost, and it heals with room."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from hpcpools import config as configuration
from hpcpools.config import Config
from hpcpools.errors import RedisUnavailableError, UnavailableError
from hpcpools.redisdb import embedded
from hpcpools.redisdb.connect import connect
from hpcpools.services import control, logs
from hpcpools.services.state import ServiceState
from hpcpools.short.enqueue import Client, ShortJob

from .conftest import Crew, wait_until

SIZE = embedded.MIN_FREE + (32 << 20)


@pytest.fixture
def small_disk(config: Config) -> Iterator[Config]:
    """The config, its runtime directory on a tmpfs slightly larger than the space Redis asks for."""
    config.runtime_dir.mkdir(mode=0o700)
    argv = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "tmpfs", str(config.runtime_dir)]
    if os.geteuid() != 0 or subprocess.run(argv, capture_output=True, check=False).returncode:
        pytest.skip("a small filesystem needs root and the right to mount")
    try:
        yield config
    finally:
        control.down(config)
        subprocess.run(["umount", str(config.runtime_dir)], check=True)


def fill(config: Config) -> Path:
    """A file that takes all space of the runtime directory but 1 MiB."""
    filler = config.runtime_dir / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(config.runtime_dir).free - (1 << 20))
    return filler


def test_a_full_disk_loses_nothing_and_heals(small_disk: Config, crew: Crew) -> None:
    """Full disk: the server ends rather than lie, `ps` and `up` say what is missing, space brings it back."""
    crew.up("redis")
    client = connect(small_disk, retries=0)
    filler = fill(small_disk)
    acknowledged = 0
    with pytest.raises(redis.RedisError):
        for number in range(10_000):
            client.set(f"n{number}", "x" * 1000)
            acknowledged = number + 1
    wait_until(lambda: "MiB free; Redis needs" in crew.ps()["redis"].detail)
    assert crew.ps()["redis"].state == "backoff"
    with pytest.raises(UnavailableError, match="MiB free"):
        crew.up("redis")
    with pytest.raises(RedisUnavailableError):
        connect(small_disk)
    filler.unlink()
    wait_until(lambda: crew.ps()["redis"].state == "running", 30)
    assert connect(small_disk).dbsize() >= acknowledged > 100


TASK = """
import os
from hpcpools import task

@task
def note(path: str, number: int) -> int:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(fd, f"{number}\\n".encode())
    os.close(fd)
    if number < 0:
        raise ValueError("told to")
    return number
"""


def test_a_full_disk_under_a_busy_pool(small_disk: Config) -> None:
    """The pool's Redis and all logs run out of space under load: one clear message, 0 acknowledged jobs lost,
    each runs once; within 30 s of the space all services are back, and the logs go on."""
    folder = small_disk.folder
    (folder / "disk_tasks.py").write_text(TASK)
    with Path(small_disk.file).open("a") as file:
        file.write('[project]\nmodules = ["disk_tasks"]\n')
    config = configuration.load(Path(small_disk.file))
    ran = folder / "ran"
    control.up(config, ["redis", "short"], engine="local")
    client = Client(config)

    def enqueue(number: int) -> ShortJob:
        return client.enqueue("disk_tasks:note", {"path": str(ran), "number": number}, job_id=f"n{number}")

    jobs = [enqueue(number) for number in range(20)]
    filler = fill(config)
    with pytest.raises(RedisUnavailableError):
        while len(jobs) < 10_000:
            jobs.append(enqueue(len(jobs)))
    wait_until(lambda: "MiB free; Redis needs" in _state(config, "redis").detail)
    with pytest.raises(UnavailableError, match="MiB free"):
        control.up(config, ["redis"], engine="local")
    filler.unlink()
    freed = time.monotonic()
    wait_until(lambda: all(_state(config, name).state == "running" for name in ("redis", "short")), 30)
    assert {job.wait(max(0.1, freed + 30 - time.monotonic())) for job in jobs} == {"finished"}
    runs = Counter(ran.read_text().split())
    assert {str(number) for number in range(len(jobs))} <= runs.keys()
    assert max(runs.values()) == 1
    assert enqueue(-1).wait(30) == "failed"
    wait_until(lambda: any("told to" in line for line in logs.tail(logs.log_path(config, "short"), 50)))


def _state(config: Config, name: str) -> ServiceState:
    return next(state for state in control.ps(config) if state.name == name)
