"""The scheduler service: real processes, a real Redis, real signals."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hpcpools import catalog
from hpcpools.config import Config
from hpcpools.errors import ConfigError
from hpcpools.redisdb import keys
from hpcpools.redisdb.connect import connect
from hpcpools.short import slots, timetable
from hpcpools.short.job import HpcJob, HpcQueue, bind
from hpcpools.short.lease import TTL, Lease, LeaseLostError, holder
from hpcpools.short.plan import plans
from hpcpools.short.timetable import Record, schedule_view
from tests.short.schedule_lab import ENTRIES, QUEUE, Lab, Service, eventually

if TYPE_CHECKING:
    from redis.client import Pipeline


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A private Redis, tasks and schedulers."""
    lab = Lab(tmp_path)
    try:
        yield lab
    finally:
        lab.close()


def fetch(lab: Lab, config: Config, job_id: str) -> HpcJob:
    """The job as a worker of this pool reads it."""
    job = bind(config, catalog.load(config)).fetch(job_id, connection=lab.connection)
    assert isinstance(job, HpcJob)
    return job


def served(lab: Lab, services: list[Service], ids: list[str], count: int, seconds: float = 15.0) -> None:
    """Take jobs out of the queue until ``services`` fired ``count`` more slots."""
    goal = sum(len(service.slots()) for service in services) + count

    def enough() -> bool:
        ids.extend(lab.serve())
        return sum(len(service.slots()) for service in services) >= goal

    eventually(enough, seconds)


def test_the_schedule_comes_back_whatever_happened_to_it(lab: Lab) -> None:
    """A crash of rq-scheduler between ZREM and ZADD, a deleted job hash, a changed time, a stray entry: all
    are put right at the next tick, by the config; and cron means UTC although TZ says New York."""
    config = lab.configure(hourly="every = 3600", nightly='cron = "0 3 * * *"')
    scheduler = lab.scheduler(config, TZ="America/New_York")
    due = eventually(lambda: lab.entry("hourly"))
    night = eventually(lambda: lab.entry("nightly"))
    assert due % 3600 == 0
    assert 0 < due - time.time() <= 3600
    assert datetime.fromtimestamp(night, timezone.utc).strftime("%H:%M") == "03:00"

    lab.connection.zrem(ENTRIES, "schedule-hourly")
    eventually(lambda: lab.entry("hourly") == due)
    lab.connection.delete(ENTRIES)
    eventually(lambda: (lab.entry("hourly"), lab.entry("nightly")) == (due, night))
    lab.connection.delete("rq:job:schedule-hourly")
    eventually(lambda: lab.connection.exists("rq:job:schedule-hourly"))
    lab.connection.zadd(ENTRIES, {b"schedule-hourly": due + 10**9, b"\xff stray": 1, b"schedule-gone": 1})
    eventually(lambda: lab.entry("hourly") == due)
    eventually(lambda: lab.connection.zcard(ENTRIES) == 2)
    assert lab.connection.llen(QUEUE) == 0
    assert scheduler.end() == 0


def test_a_schedule_that_is_no_longer_declared_is_removed(lab: Lab) -> None:
    """A restart with a config that lacks a schedule removes its entry, its job and its record."""
    assert lab_run(lab, lab.configure(kept="every = 3600", old="every = 3600")) == 0
    assert lab.entry("old")
    scheduler = lab.scheduler(lab.configure(kept="every = 3600"))
    eventually(lambda: not lab.entry("old"))
    assert lab.connection.exists("rq:job:schedule-old", timetable.record_key("old")) == 0
    assert lab.entry("kept")
    assert scheduler.end() == 0


def lab_run(lab: Lab, config: Config) -> int:
    """Run a scheduler until it declared everything; returns its exit code."""
    scheduler = lab.scheduler(config)
    eventually(lambda: len(scheduler.events("declare")) == 2)
    return scheduler.end()


def test_fired_jobs_are_signed_and_run_in_the_pool(lab: Lab) -> None:
    """What is fired is a valid job of ours with the slot in its id, and the pool runs it."""
    config = lab.configure(beat="every = 1")
    scheduler = lab.scheduler(config)
    eventually(scheduler.slots)
    assert scheduler.end() == 0
    first = f"beat-{scheduler.slots()[0]}"
    job = fetch(lab, config, first)
    assert not job.refusal
    assert (job.task, job.origin, job.kwargs, job.result_ttl) == ("beats:beat", "maintenance", {}, 3600)

    pool = lab.service("pool", config, ", burst=True, workers=1")
    assert pool.process.wait(20) == 0
    job = fetch(lab, config, first)
    assert job.get_status() == "finished"
    assert job.return_value() == "tick"


def test_a_killed_scheduler_is_succeeded_and_no_slot_fires_twice(lab: Lab) -> None:
    """Of two schedulers one is live; after kill -9 the other takes over within 30 s, on the same grid."""
    config = lab.configure(one="every = 1", two="every = 2")
    pair = [lab.scheduler(config), lab.scheduler(config)]
    ids: list[str] = []
    served(lab, pair, ids, 6)
    leader, other = sorted(pair, key=lambda each: each.name != lab.holder())
    assert not other.slots()
    leader.send(signal.SIGKILL)
    killed = time.monotonic()
    served(lab, [other], ids, 4, seconds=30)
    assert time.monotonic() - killed <= 30
    assert other.end() == 0
    ids.extend(lab.serve())

    assert [each for each, times in Counter(ids).items() if times > 1] == []
    fired = {
        name: sorted(int(i.rpartition("-")[2]) for i in ids if i.startswith(name)) for name in ("one", "two")
    }
    assert all(slot % 2 == 0 for slot in fired["two"])
    gaps = [later - earlier for earlier, later in zip(fired["one"], fired["one"][1:], strict=False)]
    assert sum(gap > 1 for gap in gaps) <= 1  # nothing missed but during the takeover
    record = lab.record("one")
    assert record.missed == max(gaps) - 1
    assert record.fired == len(fired["one"])


def test_a_stopped_leader_that_wakes_after_the_takeover_fires_nothing(lab: Lab) -> None:
    """SIGSTOP, takeover, SIGCONT: the old leader stands by, and every slot was fired once."""
    config = lab.configure(beat="every = 1")
    pair = [lab.scheduler(config), lab.scheduler(config)]
    ids: list[str] = []
    served(lab, pair, ids, 2)
    old, new = sorted(pair, key=lambda each: each.name != lab.holder())
    old.send(signal.SIGSTOP)
    served(lab, [new], ids, 2, seconds=30)
    fired = old.slots()
    old.send(signal.SIGCONT)
    eventually(lambda: old.events("standby"))
    served(lab, [new], ids, 2)
    assert old.slots() == fired
    assert [each for each, times in Counter(ids).items() if times > 1] == []
    assert old.end() == 0
    assert lab.holder() == new.name  # leaving, it released only what was its own
    assert new.end() == 0
    assert lab.holder() == ""


def test_redis_killed_and_started_again_does_not_end_the_scheduler(lab: Lab) -> None:
    """kill -9 of Redis, then a start from its append-only file: same process, same lease, next slots."""
    config = lab.configure(beat="every = 1")
    scheduler = lab.scheduler(config)
    ids: list[str] = []
    served(lab, [scheduler], ids, 1)
    lab.kill_redis()
    eventually(lambda: scheduler.events("redis-away"))
    lab.start_redis()
    served(lab, [scheduler], ids, 2)
    assert scheduler.process.poll() is None
    assert scheduler.events("redis-back")
    assert scheduler.end() == 0
    ids.extend(lab.serve())
    assert len(ids) == len(set(ids)) == lab.record("beat").fired


def test_a_scheduler_can_start_before_redis_and_stop_without_it(lab: Lab) -> None:
    """No Redis at the start is waited out; no Redis at the end does not hold SIGTERM up."""
    config = lab.configure(beat="every = 1")
    lab.kill_redis()
    lab.socket.unlink()
    scheduler = lab.scheduler(config)
    eventually(lambda: scheduler.events("redis-away"))
    lab.start_redis()
    eventually(scheduler.slots)
    lab.kill_redis()
    assert scheduler.end() == 0


def test_an_unserved_queue_gets_one_job_and_no_pile(lab: Lab) -> None:
    """While a firing waits in its queue, later slots are skipped and counted; served, it goes on."""
    config = lab.configure(beat="every = 1")
    scheduler = lab.scheduler(config)
    eventually(lambda: lab.record("beat").skipped >= 2)
    assert lab.connection.llen(QUEUE) == 1
    assert len(scheduler.slots()) == 1
    assert lab.serve() == [f"beat-{scheduler.slots()[0]}"]
    eventually(lambda: lab.connection.llen(QUEUE))
    assert lab.record("beat").fired == 2
    assert scheduler.end() == 0


def test_after_downtime_the_newest_slot_fires_once(lab: Lab) -> None:
    """A scheduler that was down for three slots fires the newest one, counts the two others, and does not
    fire the same slot again when an old record is put back."""
    now = time.time()
    every = next(length for length in range(1000, 1200) if 60 < now % length < length - 60)
    config = lab.configure(beat=f"every = {every}")
    newest = slots.Timing(every=every).newest(now)
    old = Record(f"every {every}s", last_slot=newest - 3 * every).to_hash()
    lab.connection.hset(timetable.record_key("beat"), mapping=old)
    scheduler = lab.scheduler(config)
    eventually(scheduler.slots)
    assert (scheduler.slots(), lab.record("beat").missed) == ([newest], 2)
    lab.connection.hset(timetable.record_key("beat"), mapping=old)
    eventually(lambda: scheduler.events("repeat"))
    assert lab.serve() == [f"beat-{newest}"]
    assert scheduler.end() == 0


def test_delayed_jobs_of_rq_reach_their_queue(lab: Lab) -> None:
    """A job scheduled for later (as a retry with a delay is) is queued when due, still signed; a forged one
    gets no signature from us, and one led into a foreign queue is dropped."""
    config = lab.configure(far="every = 3600")
    job_class = bind(config, catalog.load(config))
    entry = catalog.load(config).short("beats:beat")
    now = datetime.now(timezone.utc)

    def scheduled(name: str, queue: str, delay: float) -> None:
        job = job_class.of(entry, {"word": name}, connection=lab.connection, job_id=name, queue="maintenance")
        into = HpcQueue(queue, connection=lab.connection, job_class=job_class)
        into.schedule_job(job, now + timedelta(seconds=delay))

    scheduled("soon", "maintenance", 1)
    scheduled("later", "maintenance", 3600)
    scheduled("astray", "default", -5)
    scheduled("forged", "maintenance", -5)
    lab.connection.hset("rq:job:forged", "timeout", 99999)
    registry = "rq:scheduled:maintenance"
    lab.connection.zadd(registry, {b"\xff no id": 1, b"missing": 1})
    scheduler = lab.scheduler(config)
    eventually(lambda: lab.connection.lpos(QUEUE, "soon") is not None)
    assert lab.connection.zrange(registry, 0, -1) == [b"later"]
    assert lab.connection.zcard("rq:scheduled:default") == 0
    assert sorted(lab.serve()) == ["forged", "soon"]
    assert lab.connection.llen("rq:queue:default") == 0
    assert not fetch(lab, config, "soon").refusal
    assert "signature" in fetch(lab, config, "forged").refusal
    assert scheduler.end() == 0


def test_a_retry_with_a_delay_runs_in_the_pool(lab: Lab) -> None:
    """A job that fails, and is to be tried again a second later, is tried again and finishes."""
    config = lab.configure(far="every = 3600")
    job_class = bind(config, catalog.load(config))
    entry = catalog.load(config).short("beats:flaky")
    arguments = {"path": str(lab.folder / "touched")}
    job = job_class.of(entry, arguments, connection=lab.connection, job_id="flaky", retries=1)
    job.retry_intervals = [1]
    HpcQueue("maintenance", connection=lab.connection, job_class=job_class).enqueue_job(job)
    lab.scheduler(config)
    pool = lab.service("pool", config, ", workers=1")
    eventually(lambda: fetch(lab, config, "flaky").get_status() == "finished")
    assert fetch(lab, config, "flaky").return_value() == "the second time"
    assert lab.services[0].events("enqueue")
    assert pool.end() == 0


def test_nothing_is_written_once_the_lease_went_to_another(lab: Lab) -> None:
    """The guard is in the transaction itself: a holder that loses the lease between its check and its write,
    by expiry or to another, writes nothing."""
    connection = connect(lab.configure(), retries=0)
    mine, other = Lease(connection, ttl=0.2), Lease(lab.connection)
    assert mine.take()
    assert not other.take()

    def slow_write(pipe: Pipeline) -> None:
        pipe.multi()
        pipe.set("fired", 1)
        eventually(lambda: not lab.connection.exists(keys.SCHEDULER_LEASE))

    def overtaken_write(pipe: Pipeline) -> None:
        slow_write(pipe)
        assert other.take()

    for write in (slow_write, overtaken_write):
        assert mine.take()
        with pytest.raises(LeaseLostError):
            mine.guarded(write)
    assert not lab.connection.exists("fired")
    assert not mine.release()
    assert other.release()
    connection.close()


def test_the_lease_is_extended_and_released_by_its_owner_only(lab: Lab) -> None:
    """A second claim neither takes, nor extends, nor deletes the lease of the first."""
    first, second = Lease(lab.connection), Lease(lab.connection)
    assert first.take()
    lab.connection.pexpire(keys.SCHEDULER_LEASE, 2000)
    assert not second.take()
    assert second.holder == first.name
    assert not second.release()
    assert int(lab.connection.pttl(keys.SCHEDULER_LEASE)) <= 2000
    assert first.take()
    assert int(lab.connection.pttl(keys.SCHEDULER_LEASE)) > 2000
    assert 0 < TTL <= 15
    assert abs(first.clock() - time.time()) < 1
    live = holder(lab.connection)
    assert live
    assert live.name == f"{os.uname().nodename.split('.')[0]}:{os.getpid()}"
    assert live.age < 1
    assert first.release()
    assert holder(lab.connection) is None


def test_the_view_shows_every_schedule_with_and_without_a_live_scheduler(lab: Lab) -> None:
    """Before any scheduler ran nothing is known but the next slot; then firings, lateness and the holder."""
    config = lab.configure(beat="every = 1", nightly='cron = "0 3 * * *"')
    beat, nightly = schedule_view(config, lab.connection)
    assert (beat.name, beat.task, beat.timing, beat.queue) == (
        "beat",
        "beats:beat",
        "every 1s",
        "maintenance",
    )
    assert (beat.last_fired, beat.fired, beat.holder, beat.holder_age) == (None, 0, "", None)
    assert (nightly.timing, nightly.timezone) == ("cron 0 3 * * * UTC", "UTC")
    assert nightly.next_due
    assert 0 < nightly.next_due - time.time() <= 86400

    scheduler = lab.scheduler(config)
    eventually(scheduler.slots)
    beat, nightly = schedule_view(config, lab.connection)
    assert beat.last_fired
    assert beat.lateness is not None
    assert 0 <= beat.lateness < 1
    assert (beat.fired, beat.missed, beat.holder) == (1, 0, scheduler.name)
    assert beat.holder_age is not None
    assert beat.holder_age < 5
    assert nightly.last_fired is None
    assert scheduler.end() == 0
    beat, _ = schedule_view(config, lab.connection)
    assert beat.holder == ""
    eventually(lambda: (schedule_view(config, lab.connection)[0].next_due or 0) < time.time())  # overdue


@pytest.mark.parametrize(
    ("task", "said"),
    [("beats:nothing", "no declared task"), ("beats:long", "training pool"), ("beats:needy", "path")],
)
def test_a_task_that_cannot_be_fired_stops_the_start(task: str, said: str, lab: Lab) -> None:
    """Unknown, a training, or with arguments that nobody gives: the error names the key."""
    config = lab.configure(bad="every = 60")
    file = Path(config.file)
    file.write_text(file.read_text().replace("beats:beat", task))
    from hpcpools import config as configuration

    config = configuration.load(file)
    with pytest.raises(ConfigError, match=said) as caught:
        plans(config, catalog.load(config))
    assert "schedule.bad.task" in str(caught.value)
