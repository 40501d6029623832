"""Redis on a filesystem that fills up: nothing acknowledged is lost, and it comes back with the space."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest
import redis

from hpcpools.config import Config
from hpcpools.errors import RedisUnavailableError, UnavailableError
from hpcpools.redisdb import embedded
from hpcpools.redisdb.connect import connect
from hpcpools.services import control

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


def test_a_full_disk_loses_nothing_and_heals(small_disk: Config, crew: Crew) -> None:
    """Full disk: the server ends rather than lie, `ps` and `up` say what is missing, space brings it back."""
    crew.up("redis")
    client = connect(small_disk, retries=0)
    filler = small_disk.runtime_dir / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(small_disk.runtime_dir).free - (1 << 20))
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
