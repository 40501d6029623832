"""Lanes of login nodes that share a Redis, and who takes up what; an overflow; a cancel nobody heeds."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from hpcpools.catalog import Catalog
from hpcpools.cli import group
from hpcpools.errors import WaitTimeoutError
from hpcpools.lane import filling, service
from hpcpools.lane.inflight import InFlight
from hpcpools.lane.service import Lane, overflow_queues
from hpcpools.runs import batches
from hpcpools.runs.batches import Carried
from hpcpools.runs.token import new_batch_token
from hpcpools.short import enqueue, views
from tests.lane.desk import Desk
from tests.lane.test_node import make


def test_what_a_lane_that_is_gone_held_has_an_heir(desk: Desk) -> None:
    """Another login node's lane takes it, in a batch or not; never from one that lives."""
    for name in ("carried", "stray"):
        desk.enqueue(job_id=name)
    carried, stray = (desk.claim() for _ in range(2))
    batch, loose = [{(each.queue, each.id, each.execution)} for each in (carried, stray)]
    desk.worker.beat(batch | loose)
    heir = desk.new_worker(desk.node("run2"))
    assert heir.name != desk.worker.name
    assert heir.strays(batch) == [] and not heir.inherit(desk.worker.name, batch)
    desk.is_gone(desk.worker)
    assert heir.inherit(desk.worker.name, batch)
    assert heir.strays(batch) == list(loose)
    assert set(heir.holders(batch | loose).values()) == {heir.name}
    assert desk.redis.hget("rq:job:carried", "worker_name") == heir.name.encode()
    heir.beat(batch | loose)
    assert desk.worker.strays(set()) == []  # it was only slow: these are not its own any more


def test_a_batch_goes_to_one_heir(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not while its lane lives; then whole, with its end; and the lane that was only silent leaves it alone.

    A batch whose jobs are in no Redis that the heir knows stays where it is.
    """
    monkeypatch.setattr(service, "Signals", lambda _counted: None)
    first, second = (Lane(desk.node(name), Catalog({})) for name in ("run", "run2"))
    desk.enqueue(job_id="j")
    held = desk.claim()
    place = make(tmp_path, ("good", {}))
    carried = Carried(held.id, held.execution, held.queue, held.job.task, held.job.kwargs, 60.0)
    mine = msgspec.structs.replace(place.read(), lane=first.worker.name, jobs=(carried,))
    batches.create(desk.config.root, msgspec.structs.replace(mine, token=new_batch_token(time.time() + 1)))
    elsewhere = msgspec.structs.replace(place.read(), token=new_batch_token(time.time() + 2))
    batches.create(desk.config.root, elsewhere)
    place.discard()
    first._adopt()
    first.beat()
    assert len(first.open) == 1
    assert second._adopt() == {*first.held(), ("slurm", "j0", "e0")}
    assert not second.open
    desk.is_gone(first.worker)
    second._sweep()
    [opened] = second.open.values()
    assert opened.held == first.held()
    first.beat()
    assert not first.open
    assert opened.place.start(0, time.time()) and opened.place.end(0, "finished", result=1)
    second.collect(opened)
    assert (desk.state("j"), views.show(desk.config, "j").result) == ("finished", 1)
    assert batches.live(desk.config.root) == [elsewhere.token]


def test_what_was_given_back_meanwhile_is_not_submitted(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lane that hung between claim and batch: an heir put the job back, so its batch starts nothing."""
    monkeypatch.setattr(service, "Signals", lambda _counted: None)
    slow = Lane(desk.config, Catalog({}))
    desk.enqueue(job_id="kept")
    desk.enqueue(job_id="gone")
    kept, gone = desk.claim(), desk.claim()
    heir = desk.new_worker(desk.node("run2"))
    desk.redis.delete(f"rq:worker:{slow.worker.name}")
    [(queue, job_id, execution)] = heir.strays({(kept.queue, kept.id, kept.execution)})
    assert heir.give_back(queue, job_id, execution, count=False, reason="in no batch")
    place = make(tmp_path, ("good", {}), ("good", {}))
    carried = tuple(Carried(each.id, each.execution, each.queue, "t", {}, 60.0) for each in (kept, gone))
    opened = InFlight(place, msgspec.structs.replace(place.read(), jobs=carried))
    filling._withdraw_what_is_gone(slow, opened)
    assert place.claimed() == {1}
    assert not place.start(1, time.time()) and place.start(0, time.time())


@pytest.mark.parametrize(
    ("lane", "taken"),
    [({}, ()), ({"overflow_above": 2}, (True, False)), ({"overflow_after": "1h"}, (False, False))],
)
def test_an_overflow_by_length_or_age(desk: Desk, lane: dict[str, Any], taken: tuple[bool, ...]) -> None:
    """More wait than workers shall have before them, or one waits too long; without either, never."""
    config = desk.node("run", **lane)
    assert overflow_queues(config) == (config.short.queues[:-1] if lane else ())
    for _ in range(3):
        desk.enqueue(queue="default")
    stub: Any = SimpleNamespace(config=config, worker=desk.worker)
    for expected in taken:
        assert filling._overflows(stub, "default") is expected
        desk.claim("default")


def test_cancel_says_so_when_nobody_heeds_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job is held by a lane that does not run: cancel waits a while, and then exits 6 with the reason."""
    monkeypatch.setattr(enqueue, "_STOP", 0.2)
    desk.enqueue(job_id="j", queue="default")
    desk.claim("default")
    (desk.lab.folder / "hpcpools.toml").write_text(
        f'[redis]\nurl = "unix://{desk.lab.socket}"\n[services]\nruntime_dir = "run"\n'
    )
    done = CliRunner().invoke(group, ["--config", str(desk.lab.folder / "hpcpools.toml"), "cancel", "j"])
    assert (done.stdout, done.exit_code) == ("j  started\n", 1)
    assert isinstance(done.exception, WaitTimeoutError)
    assert "j" in done.exception.message and "lane" in str(done.exception.hint)
