"""No slot is lost and none fires twice, whatever happens to the scheduler; what it missed is on record."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcpools.short.lease import Lease
from tests.short.schedule_lab import Lab, Service, eventually


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A private Redis, tasks and schedulers."""
    lab = Lab(tmp_path)
    try:
        yield lab
    finally:
        lab.close()


def fired(lab: Lab, service: Service, count: int) -> list[int]:
    """Serve the queue until ``service`` fired ``count`` slots; the slots of what was served."""
    ids: list[str] = []

    def enough() -> bool:
        ids.extend(lab.serve())
        return len(service.slots()) >= count

    eventually(enough, 60)
    ids.extend(lab.serve())
    return [int(each.rpartition("-")[2]) for each in ids]


def test_each_second_has_its_firing_and_a_time_without_a_scheduler_has_one(lab: Lab) -> None:
    """A 1 s schedule fires each second once; after kill -9 and three missed slots the newest one fires, and
    what was missed, from when to when, stands in the log and in `hpcpools schedule --json`."""
    config = lab.configure(beat="every = 1")
    first = lab.scheduler(config)
    before = fired(lab, first, 9)
    assert before == list(range(before[0], before[0] + len(before)))
    assert lab.record("beat").missed == 0

    first.send(signal.SIGKILL)
    first.process.wait()
    before += [int(each.rpartition("-")[2]) for each in lab.serve()]
    eventually(lambda: time.time() > before[-1] + 4.1)
    second = lab.scheduler(config)
    after = fired(lab, second, 3)
    assert after == list(range(after[0], after[0] + len(after)))
    missed = after[0] - before[-1] - 1
    assert missed >= 3

    gap = {"missed": missed, "first": before[-1] + 1, "last": after[0] - 1, "fired": after[0]}
    told = f"slot={after[0]} .* missed={missed} missed_from={gap['first']} missed_to={gap['last']}"
    assert second.says("fire", told)
    shown = lab.listed()
    row = shown["schedules"]["beat"]
    assert (row["gaps"], row["missed"], row["skipped"]) == ([gap], missed, 0)
    assert row["last_slot"] >= after[-1]
    assert 0 <= row["lateness"] <= row["late_max"]
    assert row["late_p95"] <= row["late_max"]
    assert (shown["scheduler"]["name"], shown["scheduler"]["ticked"] < 60) == (second.name, True)
    assert second.end() == 0
    assert f"{missed}, last " in lab.cli().stdout


def test_the_lease_of_a_process_that_ended_here_is_free(lab: Lab) -> None:
    """A scheduler started again after kill -9 leads at its second try; the lease of another host, of another
    pid namespace and of a living process stays theirs."""
    mine = Lease(lab.connection)
    living = mine.token.decode()
    host, pid, rest = living.split(":")
    for other in (f"elsewhere:1:{rest}", f"{host}:4194305:1-ab", f"{host}:1:{rest}", f"{host}:{pid}:x"):
        lab.connection.set("hp:scheduler:lease", other, px=60_000)
        assert [mine.take(), mine.take(), mine.take()] == [False] * 3
    lab.connection.set("hp:scheduler:lease", f"{host}:4194305:{rest}x", px=60_000)  # no pid is as large
    assert [mine.take(), mine.take()] == [False, True]
