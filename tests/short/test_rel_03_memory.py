"""REL-3: a task that eats the machine's memory is ended by the kernel; an idle pool costs next to nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcpools.errors import RunFailedError
from tests.cluster import files, layout
from tests.short.lab import Lab, descendants, wait_for

ROOM = 256 << 20  # bytes for all of the pool
IDLE = 3.0  # seconds


@pytest.fixture
def group() -> Iterator[Path]:
    """A memory cgroup with :data:`ROOM`, as an administrator gives one to a user on a login node."""
    if refused := files.refused_controllers():
        pytest.skip(f"no cgroup v1 to write in: {'; '.join(refused)}")
    folder = layout.CGROUPS / "memory" / f"hpcpools-rel-3-{os.getpid()}"
    folder.mkdir()
    try:
        (folder / "memory.limit_in_bytes").write_text(str(ROOM))
        yield folder
    finally:
        wait_for(lambda: not (folder / "cgroup.procs").read_text(), "the group is empty")
        folder.rmdir()


@pytest.fixture
def lab(group: Path, tmp_path: Path) -> Iterator[Lab]:
    """Redis and a configuration; ends before the group does."""
    lab = Lab(tmp_path)
    try:
        yield lab
    finally:
        lab.stop()
        print(lab.events()[-4000:])


def test_rel_3_the_kernel_ends_a_task_that_eats_its_memory(lab: Lab, group: Path) -> None:
    """3 attempts, then it is failed and says why; the tasks beside it run once each, the supervisor lives."""
    supervisor = lab.start_pool()
    lab.wait_idle_workers(2)
    for pid in (supervisor.pid, *descendants(supervisor.pid)):
        (group / "cgroup.procs").write_text(str(pid))
    eater = lab.enqueue("eat", mib=4 * ROOM >> 20)
    others = [lab.enqueue("work", number=number, seconds=0.1) for number in range(30)]
    with pytest.raises(RunFailedError, match=r"killed 3 times .*perhaps out of memory"):
        eater.result(60)
    assert [job.result(30) for job in others] == list(range(30))
    assert sum(line[0] == "eat" for line in lab.lines()) == 3
    assert sum(line[0] == "start" for line in lab.lines()) == 30
    assert supervisor.poll() is None


def test_rel_3_an_idle_pool_is_small_and_quiet(tmp_path: Path) -> None:
    """Four workers that have nothing to do: ≤100 MB PSS and ≤1 % of a core, with their supervisor."""
    lab = Lab(tmp_path, workers=4)
    try:
        supervisor = lab.start_pool()
        lab.wait_idle_workers(4)
        lab.enqueue("say").result(20)
        pids = [supervisor.pid, *descendants(supervisor.pid)]
        before, began = sum(map(ticks, pids)), time.monotonic()
        wait_for(lambda: time.monotonic() - began > IDLE, "a while has passed")
        share = (sum(map(ticks, pids)) - before) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - began)
        memory = sum(map(pss, pids))
        print(f"figures: PSS {memory / 1e6:.0f} MB, CPU {share:.2%}")
        assert memory <= 100e6
        assert share <= 0.01
    finally:
        lab.stop()


def ticks(pid: int) -> int:
    """CPU time so far, in clock ticks."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(words[11]) + int(words[12])


def pss(pid: int) -> int:
    """Bytes of memory, shared pages divided by those who share them."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
