"""Up, down, restart, death and backoff, with real children and a real Redis."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from hpcpools.config import Config
from hpcpools.errors import RedisUnavailableError, UnavailableError, UsageError
from hpcpools.redisdb.connect import connect
from hpcpools.services import control, lock

from .conftest import Crew, processes_of, wait_until


def _start_times(pids: list[int]) -> set[tuple[int, int | None]]:
    return {(pid, lock.start_time(pid)) for pid in pids}


def test_up_is_idempotent(crew: Crew, config: Config) -> None:
    """A second `up` finds everything running and starts no process."""
    first = crew.up("steady")
    assert first["redis"].state == first["steady"].state == "running"  # what it requires comes with it
    before = _start_times(processes_of(config))
    second = crew.up("steady")
    assert second["steady"] == first["steady"]
    assert _start_times(processes_of(config)) == before
    assert len(before) == 4  # supervisor, its beacon, redis, steady


def test_concurrent_ups_make_one_supervisor(crew: Crew, config: Config) -> None:
    """Four `up` at the same moment all succeed and leave one supervisor with one child."""
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: crew.up("parent")["parent"].pid, range(4)))
    assert len(set(results)) == 1
    wait_until(lambda: len(processes_of(config)) == 4)  # supervisor, its beacon, parent, grandchild


def test_nothing_runs_before_up_and_after_down(crew: Crew, config: Config) -> None:
    """`ps` and `running` work without a supervisor, and `down` leaves no process and no socket."""
    assert not control.running(config)
    assert {state.state for state in control.ps(config)} == {"stopped"}
    assert not config.runtime_dir.exists()  # asking creates nothing
    control.down(config)
    crew.up("steady", "parent", "stubborn")
    assert control.running(config)
    states = control.down(config)
    assert {state.state for state in states} == {"stopped"}
    assert not control.running(config)
    wait_until(lambda: processes_of(config) == [], 1.0)  # what was killed needs an instant to be gone
    assert not (config.runtime_dir / "control.sock").exists()


def test_down_of_one_keeps_the_others(crew: Crew) -> None:
    """Stopping one service leaves the rest; stopping redis stops what requires it first."""
    crew.up("steady", "parent")
    redis = crew.pid("redis")
    control.down(crew.config, ["parent"])
    states = crew.ps()
    assert states["parent"].state == "stopped"
    assert states["redis"].pid == redis
    crew.up("parent")
    control.down(crew.config, ["redis"])
    states = crew.ps()
    assert states["steady"].state == states["redis"].state == "stopped"
    assert states["parent"].state == "running"
    log = (crew.config.runtime_dir / "logs" / "supervisor.log").read_text()
    assert log.rindex("steady: pid") < log.rindex("redis: pid")


def test_a_stubborn_service_is_killed_after_its_grace(crew: Crew) -> None:
    """SIGTERM first, SIGKILL once the grace is over."""
    crew.up("stubborn", "parent")
    deaf = crew.config.runtime_dir / "logs" / "stubborn.log"
    wait_until(lambda: "deaf" in (deaf.read_text() if deaf.exists() else ""))
    control.down(crew.config, ["stubborn"])
    assert crew.ps()["stubborn"].last_exit == "killed by SIGKILL"


def test_restart_replaces_the_process(crew: Crew) -> None:
    """`restart` of redis gives new processes to it and to what requires it, and keeps the data."""
    before = crew.up("steady", "parent")
    connect(crew.config).set("kept", "yes")
    after = crew.restart("redis")
    assert after["redis"].state == after["steady"].state == "running"
    assert after["redis"].pid != before["redis"].pid
    assert after["steady"].pid != before["steady"].pid
    assert after["parent"].pid == before["parent"].pid
    assert connect(crew.config).get("kept") == b"yes"
    assert after["redis"].restarts == 0  # that counts deaths, not wishes


def test_restart_of_nothing_is_an_error(config: Config) -> None:
    """`restart` without names needs something that runs."""
    with pytest.raises(UnavailableError, match="no services run here"):
        control.restart(config)


def test_an_unknown_name_is_refused(crew: Crew) -> None:
    """A name that the table lacks is a usage error which lists the known ones."""
    with pytest.raises(UsageError, match="no service nosuch"):
        crew.up("nosuch")


def test_a_dead_redis_comes_back_with_every_acknowledged_write(crew: Crew) -> None:
    """kill -9 under load, five times: each numbered write that was acknowledged is there."""
    crew.up("redis")
    acknowledged: list[int] = []
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            with contextlib.suppress(RedisUnavailableError, redis.RedisError):
                client = connect(crew.config, retries=0)
                while not stop.is_set():
                    client.set(f"n{number}", number)
                    acknowledged.append(number)
                    number += 1
            stop.wait(0.02)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for round_number in range(5):
            goal = len(acknowledged) + 300
            wait_until(lambda goal=goal: len(acknowledged) >= goal)  # type: ignore[misc]
            old = crew.pid("redis")
            os.kill(old, signal.SIGKILL)
            wait_until(lambda old=old: crew.ps()["redis"].pid not in (None, old))  # type: ignore[misc]
            wait_until(lambda: crew.ps()["redis"].state == "running")
            assert crew.ps()["redis"].restarts == round_number + 1
    finally:
        stop.set()
        writer.join()
    client = connect(crew.config)
    values = client.mget([f"n{number}" for number in acknowledged])
    assert isinstance(values, list)
    assert [value for value in values if value is None] == []
    assert len(acknowledged) >= 1500
    assert crew.ps()["redis"].last_exit == "killed by SIGKILL"


def test_what_a_dead_service_left_in_its_group_dies_before_the_restart(crew: Crew, config: Config) -> None:
    """A child killed with -9 leaves a grandchild; it is gone when the service runs again."""
    crew.up("parent")
    wait_until(lambda: len(processes_of(config)) == 4)
    old = {pid for pid in processes_of(config) if os.getpgid(pid) == crew.pid("parent")}
    os.kill(crew.pid("parent"), signal.SIGKILL)
    wait_until(lambda: crew.ps()["parent"].restarts == 1 and crew.ps()["parent"].state == "running")
    wait_until(lambda: not old & set(processes_of(config)))


def test_a_crash_loop_backs_off_and_up_shows_the_end_of_the_log(crew: Crew) -> None:
    """`up` fails with the exit code and the service's last words, escaped; `ps` shows backoff."""
    with pytest.raises(UnavailableError) as caught:
        crew.up("crasher")
    text = str(caught.value)
    assert "service crasher does not run: it keeps dying (exit 3)" in text
    assert "cannot \\x1b]0;owned\\x07 go\\u202eon" in text
    assert "\x1b" not in text
    wait_until(lambda: crew.ps()["crasher"].state == "backoff")
    state = crew.ps()["crasher"]
    assert state.failures >= 3
    assert state.pid is None
    raw = (crew.config.runtime_dir / "logs" / "crasher.log").read_bytes()
    assert b"\x1b" not in raw
    log = (crew.config.runtime_dir / "logs" / "supervisor.log").read_text()
    said = [str(json.loads(line)["text"]) for line in log.splitlines()]
    waits = [line.split(" in ")[1] for line in said if "crasher: tried again" in line]
    assert waits[:3] == ["0.2 s", "0.4 s", "0.8 s"]


def test_a_killed_supervisor_takes_its_children_along(crew: Crew, config: Config) -> None:
    """kill -9 of the supervisor: every child dies by the kernel's hand, and the next `up` starts cleanly."""
    crew.up("steady", "stubborn")
    connect(config).set("kept", "yes")
    old = processes_of(config)
    os.kill(_supervisor(config), signal.SIGKILL)
    wait_until(lambda: processes_of(config) == [])
    assert (config.runtime_dir / "control.sock").exists()  # stale now
    assert not control.running(config)
    assert {state.state for state in control.ps(config)} == {"stopped"}
    states = crew.up("steady")
    assert states["steady"].state == "running"
    assert not set(old) & set(processes_of(config))
    assert connect(config).get("kept") == b"yes"


def test_down_ends_a_hung_supervisor(crew: Crew, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped supervisor does not answer; `down` proves it ours, kills it, and its children die."""
    monkeypatch.setattr(control, "UNRESPONSIVE_AFTER", 0.5)
    monkeypatch.setattr(control, "ANSWER_TIMEOUT", 0.5)
    crew.up("steady")
    os.kill(_supervisor(config), signal.SIGSTOP)
    with pytest.raises(UnavailableError, match="does not answer"):
        control.ps(config)
    control.down(config)
    wait_until(lambda: processes_of(config) == [])


def test_a_supervisor_ends_cleanly_on_sigterm(crew: Crew, config: Config) -> None:
    """SIGTERM to the supervisor stops all services in order and releases the lock."""
    crew.up("steady")
    os.kill(_supervisor(config), signal.SIGTERM)
    wait_until(lambda: not control.running(config))
    wait_until(lambda: processes_of(config) == [])
    assert (config.runtime_dir / "supervisor.lock").read_bytes() == b""


def test_the_supervisor_survives_its_starter(crew: Crew, config: Config) -> None:
    """It has a session of its own, no terminal, and is not the caller's child."""
    crew.up("parent")
    stat = Path(f"/proc/{_supervisor(config)}/stat").read_text().rpartition(")")[2].split()
    parent, session, terminal = int(stat[1]), int(stat[3]), int(stat[4])
    assert parent != os.getpid()
    assert session != os.getsid(0)
    assert terminal == 0


def _supervisor(config: Config) -> int:
    holder = lock.holder(config.runtime_dir / lock.NAME)
    assert holder is not None
    assert holder.verified
    return holder.pid
