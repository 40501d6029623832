"""The lane in Redis: what it claims, how ends become outcomes, and what it gives back. No Slurm here."""

from __future__ import annotations

import time

import pytest
from rq.results import Result

from hpcpools.errors import RefusedError
from hpcpools.lane import explain
from hpcpools.short import explain as short_explain
from hpcpools.short import job, views
from tests.lane.desk import Desk


def test_many_jobs_are_held_at_once(desk: Desk) -> None:
    """In order, each with an execution of the one worker that rq sees; each ends for itself."""
    ids = [desk.enqueue(str(number), job_id=f"j{number}") for number in range(3)]
    held = [desk.claim() for _ in ids]
    assert [each.id for each in held] == ids
    assert desk.worker.claim("slurm") is None
    everything = {(each.queue, each.id, each.execution) for each in held}
    assert desk.worker.beat(everything) == set()
    [seen] = views.workers(desk.config)
    assert (seen.name, seen.state, seen.queues) == (desk.worker.name, "busy", ("slurm", "default"))
    workers = {f"rq:worker:{desk.worker.name}{end}".encode() for end in ("", ":executions")}
    assert set(desk.redis.keys("rq:worker:*")) == workers
    assert desk.finish(held[0], "finished", result={"a": 1})
    assert desk.finish(
        held[1],
        "failed",
        reason="ValueError: no",
        trace="Traceback (most recent call last):\n  File\nValueError: no\n",
    )
    assert desk.finish(held[2], "stopped", reason="stopped by user")
    assert [desk.state(each) for each in ids] == ["finished", "failed", "stopped"]
    shown = [views.show(desk.config, each) for each in ids]
    assert shown[0].result == {"a": 1}
    assert shown[1].reason == "ValueError: no"
    assert round((shown[0].job.ended or 0) - (shown[0].job.started or 0)) == 2
    assert desk.worker.beat(set()) == set()
    assert [queue.running for queue in views.queues(desk.config) if queue.name == "slurm"] == [0]


def test_a_late_end_changes_nothing(desk: Desk) -> None:
    """After a put-back, after a second claim, after Redis lost everything."""
    desk.enqueue(job_id="j")
    first = desk.claim()
    assert desk.worker.give_back(first.queue, first.id, first.execution, count=False, reason="preempted")
    assert desk.state("j") == "queued"
    second = desk.claim()
    assert desk.finish(first, "finished", result="old")
    assert desk.state("j") == "started"
    assert desk.finish(second, "finished", result="new")
    assert desk.finish(second, "failed", reason="twice")
    assert views.show(desk.config, "j").result == "new"
    desk.enqueue(job_id="k")
    third = desk.claim()
    desk.redis.flushall()
    assert desk.worker.beat({(third.queue, third.id, third.execution)})
    assert desk.finish(third, "finished", result=1)
    assert not desk.redis.keys("rq:job:*")


def test_a_retry_and_a_third_death(desk: Desk) -> None:
    """A failure is tried again as declared; three Slurm jobs that died under it are enough."""
    desk.enqueue(job_id="j", retries=1)
    assert desk.finish(desk.claim(), "failed", reason="first")
    assert desk.state("j") == "queued"
    assert desk.finish(desk.claim(), "failed", reason="second")
    assert desk.state("j") == "failed"
    desk.enqueue(job_id="k", retries=5)
    for _ in range(3):
        held = desk.claim()
        desk.worker.give_back(held.queue, held.id, held.execution, count=True, reason="NODE_FAIL")
    shown = views.show(desk.config, "k")
    assert (shown.job.state, shown.reason) == ("failed", "given up after 3 Slurm jobs: NODE_FAIL")


def test_what_fell_between_claim_and_batch_is_found(desk: Desk) -> None:
    """Also if the lane died in the middle of a claim; what it knows, and what others hold, is left alone."""
    for name in ("known", "claimed", "halfway", "strange"):
        desk.enqueue(job_id=name)
    known = desk.claim()
    desk.claim()
    desk.worker._scripts.claim(f"{desk.worker.name}-0000", "e" * 32, ["slurm"])
    desk.worker._scripts.claim("other-1", "f" * 32, ["slurm"])
    strays = desk.new_worker().strays({(known.queue, known.id, known.execution)})
    assert {job_id for _, job_id, _ in strays} == {"claimed", "halfway"}


def test_forged_jobs_are_refused(desk: Desk) -> None:
    """Moved into the lane's queue by hand, or changed while it was carried: failed, with the reason."""
    desk.enqueue(job_id="moved", queue="default")
    desk.redis.lrem("rq:queue:default", 0, "moved")
    desk.redis.rpush("rq:queue:slurm", "moved")
    moved = desk.claim()
    with pytest.raises(RefusedError, match="moved to slurm"):
        moved.job.entry()
    desk.enqueue(job_id="changed")
    held = desk.claim()
    desk.redis.hset("rq:job:changed", "timeout", "999999")
    assert desk.finish(held, "finished", result=1)
    shown = views.show(desk.config, "changed")
    assert shown.job.state == "failed"
    assert "signature does not match" in shown.reason


def test_rq_s_own_tools_see_the_jobs(desk: Desk) -> None:
    """rq's stop command reaches the lane, its result readers and registries know the ends."""
    from rq import Queue
    from rq.command import send_stop_job_command

    desk.enqueue(job_id="j")
    held = desk.claim()
    desk.worker.beat({(held.queue, held.id, held.execution)})
    desk.worker.asked_to_stop()
    send_stop_job_command(desk.redis, "j", serializer=job.Json)
    found: set[str] = set()
    give_up = time.monotonic() + 5
    while not found and time.monotonic() < give_up:
        found, _ = desk.worker.asked_to_stop()
    assert found == {"j"}
    assert Queue("slurm", connection=desk.redis).started_job_registry.get_job_ids() == ["j"]
    desk.finish(held, "finished", result=7)
    latest = Result.fetch_latest(job.HpcJob("j", connection=desk.redis), serializer=job.Json)
    assert latest is not None and latest.return_value == 7
    assert latest.worker_name == desk.worker.name


def test_a_backlog_has_an_age(desk: Desk) -> None:
    """How long the first job of a queue has waited; nothing for an empty one."""
    assert desk.worker.waited("default") == 0.0
    desk.enqueue(queue="default")
    time.sleep(0.05)
    assert 0.0 < desk.worker.waited("default") < 30.0
    for planted in (b"\xff\xfe", b"a list", b"nothing"):
        desk.redis.rpush("rq:job:a list", 1)
        desk.redis.lpush("rq:queue:default", planted)
        assert desk.worker.waited("default") == 0.0


def test_a_waiting_job_is_explained(desk: Desk) -> None:
    """No lane, a lane with room, and what came of it; the short pool's answer for the rest."""

    def code(job_id: str) -> str:
        found = explain.explain(desk.config, short_explain.gather(desk.config, job_id))
        return found.code if found else ""

    job_id, plain = desk.enqueue(), desk.enqueue(queue="default")
    assert (code(job_id), code(plain)) == ("NoLane", "")
    desk.worker.beat(set())
    assert code(job_id) == "Lane"
    for _ in range(3):
        held = desk.claim()
        assert code(job_id) == ""  # in no batch yet: the worker that holds it is alive
        desk.worker.give_back(held.queue, held.id, held.execution, count=True, reason="its Slurm job ended")
    assert code(job_id) == "Killed"
