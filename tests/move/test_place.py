"""Two login nodes, one root: where the pool lives, who may start it, how it moves. Real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcpools import config as configuration
from hpcpools.config import Config
from hpcpools.errors import RefusedError
from hpcpools.services import place
from tests.move.lab import OtherHost, alive, children, redis, running, supervisor
from tests.project import Project

HERE = socket.gethostname()


@pytest.fixture
def login2(laptop: Project) -> Iterator[OtherHost]:
    """Another login node of the project; nothing runs there afterwards."""
    there = OtherHost(laptop, "login2")
    yield there
    there.cli("down")


def age(project: Project, seconds: float) -> None:
    """Let the newest claim be so many seconds older."""
    number = place.newest_number(project.root)
    for name, key in ((f"{number}.json", "since"), (f"{number}.alive.json", "at")):
        file = place.folder(project.root) / name
        file.write_text(json.dumps({**json.loads(file.read_text()), key: time.time() - seconds}))


def test_the_pool_lives_on_one_login_node_and_moves_on_request(laptop: Project, login2: OtherHost) -> None:
    """Refused with the place's name; `--take-over` stops it there first; then the other way round."""
    laptop.cli("up", "redis")
    old = supervisor(laptop)
    laptop.until((laptop.root / ".pool" / "0.alive.json").exists, "a sign of life")
    code, _, said = login2.cli("up", "redis")
    assert code == 4
    assert f"lives on {HERE} (pid {old}, since " in said
    assert "--take-over" in said
    assert login2.cli("up", "--foreground", "redis")[0] == 4
    assert login2.running() == set()
    assert f"lives on {HERE}" in login2.cli("ps")[2]
    assert running(laptop) == {"redis"}

    code, _, said = login2.cli("up", "redis", "--take-over")
    assert code == 0, said
    assert "asking the pool" in said
    assert login2.running() == {"redis"}
    assert not alive(old)
    refused = laptop.cli("up", check=False)
    assert (refused.returncode, "lives on login2" in refused.stderr) == (4, True)


def test_a_host_that_is_dead_is_replaced_with_a_note(laptop: Project, login2: OtherHost) -> None:
    """Heard of lately: refused, also to take over at once; silent for long: started. None is guessed dead."""
    assert login2.cli("up", "redis")[0] == 0
    dead = supervisor(laptop, "login2")
    beacon = children(dead) - {int(redis(laptop, "login2").info()["process_id"])}
    os.kill(dead, signal.SIGKILL)
    laptop.until(lambda: not any(map(alive, beacon)), "the beacon died with it")
    assert laptop.cli("up", "redis", check=False).returncode == 4
    age(laptop, place.STALE_AFTER + 5)
    done = laptop.cli("up", "redis")
    assert "on login2" in done.stderr
    assert "silent for 2m" in done.stderr


def test_who_was_replaced_stops(laptop: Project) -> None:
    """A host that hung, came back and finds a newer claim ends its services; its beacon survives kill -9."""
    laptop.cli("up", "redis")
    pid, server = supervisor(laptop), int(redis(laptop).info()["process_id"])
    (beacon,) = children(pid) - {server}
    laptop.until((laptop.root / ".pool" / "0.alive.json").exists, "it works")
    os.kill(beacon, signal.SIGKILL)
    laptop.until(lambda: children(pid) - {server, beacon}, "another beacon")
    claim = {"host": "login9", "runtime_dir": "/x", "pid": 1, "since": time.time(), "format": 1}
    (laptop.root / ".pool" / "1.json").write_text(json.dumps(claim))
    laptop.until(lambda: not alive(pid) and not alive(server), "supervisor and Redis ended")


def _config(folder: Path, url: str = "") -> Config:
    file = folder / "hpcpools.toml"
    data = {"services": {"runtime_dir": "rt"}, "redis": {"url": url}}
    return configuration.parse(data, file, {})


def test_one_that_does_not_obey_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives signs of life and does not leave: refused, and the request is withdrawn."""
    config = _config(tmp_path)
    monkeypatch.setattr(socket, "gethostname", lambda: "login1")
    number = place.claim(config)
    assert number == 0
    place.alive(config.root, number)
    monkeypatch.setattr(socket, "gethostname", lambda: "login2")
    monkeypatch.setattr(place, "PATIENCE", 0.2)
    monkeypatch.setattr(place, "LOOK", 0.05)
    with pytest.raises(RefusedError, match=r"login1 .* was asked to stop and still lives"):
        place.admit(config, take_over=True)
    assert not place.dismissed(config.root, number)
    with pytest.raises(RefusedError, match="lives on login1"):
        place.claim(config)
    place.leave(config.root, number)
    place.admit(config)
    assert place.claim(config) == 1
    assert place.dismissed(config.root, number)


def test_pools_with_one_redis_may_be_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What each may do is claimed in that Redis; but a pool with a Redis of its own keeps them out."""
    shared = _config(tmp_path, "unix:///somewhere/redis.sock")
    for host in ("login1", "login2"):
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        place.admit(shared)
        assert place.claim(shared) is None
    place.claim(_config(tmp_path))
    monkeypatch.setattr(socket, "gethostname", lambda: "login1")
    with pytest.raises(RefusedError, match="lives on login2"):
        place.claim(shared)
