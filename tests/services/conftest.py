"""A project in a short temporary folder, a supervisor over the test crew, and a look at real processes."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpcpools import config as configuration
from hpcpools.config import Config
from hpcpools.services import control, logs
from hpcpools.services.state import ServiceState

CREW = (sys.executable, str(Path(__file__).with_name("crew.py")))


def wait_until(condition: Callable[[], object], timeout: float = 60.0) -> None:
    """Return once ``condition`` is true; fail after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not true after {timeout} s"
        time.sleep(0.02)


def processes_of(config: Config) -> list[int]:
    """Every live process whose current folder is in the runtime directory: services and supervisor."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                inside = (entry / "cwd").readlink().is_relative_to(config.runtime_dir)
            except OSError:  # ended, or a zombie
                continue
            if inside:
                found.append(int(entry.name))
    return found


class Crew:
    """The services of one test project, through the public control functions."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def up(self, *names: str, timeout: float = 30.0) -> dict[str, ServiceState]:
        return self._by_name(control.up(self.config, names, timeout=timeout, daemon=CREW))

    def restart(self, *names: str) -> dict[str, ServiceState]:
        return self._by_name(control.restart(self.config, names, daemon=CREW))

    def ps(self) -> dict[str, ServiceState]:
        return self._by_name(control.ps(self.config))

    def pid(self, name: str) -> int:
        pid = self.ps()[name].pid
        assert pid is not None, f"{name} has no process"
        return pid

    @staticmethod
    def _by_name(states: list[ServiceState]) -> dict[str, ServiceState]:
        return {state.name: state for state in states}


@pytest.fixture
def config() -> Iterator[Config]:
    """A project with its own runtime directory; nothing of it lives on after the test."""
    folder = Path(tempfile.mkdtemp(prefix="hps-"))
    file = folder / "hpcpools.toml"
    file.write_text('[services]\nruntime_dir = "rt"\nlog_bytes = 20000\nlog_files = 3\n')
    config = configuration.load(file)
    try:
        yield config
    finally:
        for name in ("supervisor", "redis"):  # shown by pytest if the test failed
            print(name, *logs.tail(logs.log_path(config, name), 30), sep="\n  ")
        if config.runtime_dir.is_dir():
            config.runtime_dir.chmod(0o700)
            control.down(config)
        wait_until(lambda: not processes_of(config))
        shutil.rmtree(folder)


@pytest.fixture
def crew(config: Config) -> Crew:
    """Control over the test crew."""
    return Crew(config)
