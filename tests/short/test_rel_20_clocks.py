"""REL-20: the clock of one login node is wrong by two minutes, and is set while tasks run.

Nothing is given up early, nothing runs twice, no slot of the schedule is lost or fired twice.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpcpools import config as configuration
from tests.short.lab import TASKS, Lab, wait_for
from tests.short.rq_tools import queue
from tests.short.schedule_lab import Lab as ScheduleLab

SKEW = 120  # seconds
SWEEP = 3.5  # seconds in which a pool sweeps once: time enough to take what it believes abandoned


class Clock:
    """Processes started with ``env`` have a wall clock that is ahead of the true time by what was ``set``."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if not compiler:
            pytest.skip("no C compiler")
        library, self._file = folder / "clock.so", folder / "ahead"
        source = Path(__file__).with_name("clock.c")
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
        self._file.write_bytes(bytes(struct.calcsize("l")))
        self.env = {"LD_PRELOAD": str(library), "CLOCK_AHEAD": str(self._file)}

    def set(self, seconds: int) -> None:
        """By so much, from now on, for all of them."""
        with self._file.open("r+b") as out:
            out.write(struct.pack("l", seconds))


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    """A clock that is two minutes ahead."""
    clock = Clock(tmp_path)
    clock.set(SKEW)
    code = [sys.executable, "-c", "import time; print(time.time())"]
    seen = subprocess.run(code, capture_output=True, check=True, env=clock.env)
    assert float(seen.stdout) > time.time() + SKEW / 2
    return clock


def test_rel_20_two_pools_one_with_a_wrong_clock(
    lab: Lab, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each holds a task while the other sweeps, at +120 s and after the clock was set to −120 s: 0 taken
    away, 0 over a limit of 60 s, one start each; rq's own cleaning by the wrong clock takes none either."""
    gate, task = lab.folder / "gate", f"{TASKS}:wait_for_file"
    arguments = {"log": str(lab.log), "path": str(gate)}
    jobs = [lab.client.enqueue(task, arguments, timeout=60, job_id=name) for name in ("one", "two")]
    with monkeypatch.context() as wrong:
        for name, value in clock.env.items():
            wrong.setenv(name, value)
        lab.start_pool(workers=1)
    wait_for(lambda: len(lab.lines()) == 1, "the one with the wrong clock holds a task")
    other = lab.folder / "other.toml"
    other.write_text(Path(lab.config.file).read_text().replace('"run"', '"other"'))
    (lab.folder / "other").mkdir(mode=0o700)
    shutil.copy2(lab.config.runtime_dir / "pool.key", lab.folder / "other" / "pool.key")
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(lab, "config", configuration.load(other))
        lab.start_pool(workers=1)
    wait_for(lambda: len(lab.lines()) == 2, "the other one, too")
    for seconds in (SKEW, -SKEW):
        clock.set(seconds)
        queue(lab).started_job_registry.cleanup(timestamp=time.time() + seconds)
        until = time.monotonic() + SWEEP
        wait_for(lambda until=until: time.monotonic() > until, "both have swept")  # type: ignore[misc]
        assert [job.refresh().state for job in jobs] == ["started", "started"]
    gate.touch()
    assert [job.result(20) for job in jobs] == ["seen", "seen"]
    assert [line[0] for line in lab.lines()] == ["wait", "wait"]
    assert "recover" not in lab.events()


def test_rel_20_the_schedule_goes_by_the_clock_of_redis(tmp_path: Path, clock: Clock) -> None:
    """A scheduler whose clock is set to and fro fires the slot of each second once, at its time."""
    folder = tmp_path / "schedule"
    folder.mkdir()
    lab = ScheduleLab(folder)
    jobs: list[str] = []

    def fired(many: int) -> bool:
        jobs.extend(lab.serve())
        return len(jobs) >= many

    try:
        scheduler = lab.scheduler(lab.configure(beat="every = 1"), **clock.env)
        for number, seconds in enumerate((-SKEW, 0, SKEW), start=1):
            wait_for(lambda many=2 * number: fired(many), "two slots")  # type: ignore[misc]
            assert abs(scheduler.slots()[-1] - time.time()) < SKEW / 4
            clock.set(seconds)
        slots = scheduler.slots()
        assert slots == list(range(slots[0], slots[0] + len(slots)))
    finally:
        lab.close()
        for service in lab.services:
            print(service.log.read_text()[-3000:])
