"""The table that ships: redis, short pool, scheduler and local slot as the supervisor runs them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from hpcpools.config import Config
from hpcpools.services import control, table
from hpcpools.services.state import ServiceState

from .conftest import processes_of, wait_until


def _states(config: Config) -> dict[str, ServiceState]:
    return {state.name: state for state in control.ps(config)}


def test_default_names(config: Config) -> None:
    """The slot belongs to the default only without Slurm; redis only where no address is given."""
    assert table.default_names(config, "slurm") == ("redis", "short", "scheduler")
    assert table.default_names(config, "local") == ("redis", "short", "scheduler", "slot")


def test_all_services_come_up_survive_and_go(config: Config) -> None:
    """Each is killed with -9 and comes back as another process; `down` leaves none."""
    states = {state.name: state for state in control.up(config, engine="local")}
    assert {name: state.state for name, state in states.items()} == dict.fromkeys(states, "running")
    for name in states:
        wait_until(lambda name=name: _states(config)[name].state == "running")  # type: ignore[misc]
        state = _states(config)[name]
        assert state.pid is not None
        os.kill(state.pid, signal.SIGKILL)
        wait_until(lambda name=name, state=state: _states(config)[name].restarts > state.restarts)  # type: ignore[misc]
    wait_until(lambda: all(state.state == "running" for state in _states(config).values()))
    after = _states(config)
    assert not {state.pid for state in after.values()} & {state.pid for state in states.values()}
    control.down(config)
    wait_until(lambda: processes_of(config) == [], 1.0)


@pytest.mark.parametrize("name", ["redis", "os", "../short"])
def test_only_names_of_the_table_run(config: Config, name: str) -> None:
    """`services.run` imports nothing for a name that is no Python service."""
    argv = [sys.executable, "-m", "hpcpools.services.run", name, "--config", config.file]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2
    assert "invalid choice" in done.stderr
