"""`hpcpools up --foreground`, as systemd, a container or a Slurm job runs it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.project import Project
from tests.short.lab import alive


@pytest.fixture
def start(laptop: Project) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start it and wait until Redis and the short pool run."""
    started: list[subprocess.Popen[str]] = []

    def begin() -> subprocess.Popen[str]:
        process = laptop.start("up", "--foreground", "redis", "short")
        started.append(process)
        laptop.until(lambda: running(laptop) == {"redis", "short"}, "both run")
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()


def running(project: Project) -> set[str]:
    """Services that run."""
    return {row["name"] for row in project.json("ps") if row["state"] == "running"}


def test_it_serves_until_sigterm(laptop: Project, start: Callable[[], subprocess.Popen[str]]) -> None:
    """Jobs run meanwhile; a second one is refused; SIGTERM ends all that it started, with exit code 0."""
    process = start()
    assert laptop.cli("enqueue", "usertasks:evaluate", "--wait").returncode == 0
    second = laptop.cli("up", "--foreground", check=False)
    assert second.returncode == 4
    assert "run already" in second.stderr
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert running(laptop) == set()


def test_down_ends_it_and_a_kill_leaves_nothing(
    laptop: Project, start: Callable[[], subprocess.Popen[str]]
) -> None:
    """`hpcpools down` from elsewhere ends it well (systemd does not restart it); kill -9 takes all along."""
    process = start()
    laptop.cli("down")
    assert process.wait(60) == 0
    process = start()
    pids = {row["pid"] for row in laptop.json("ps") if row["pid"]}
    process.kill()
    process.wait()
    laptop.until(lambda: not any(alive(pid) for pid in pids), "the services are gone")
    start()
