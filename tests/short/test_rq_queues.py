"""Queues and their order, jobs for later, and stock rq's command line on a pool's Redis."""

from __future__ import annotations

import importlib
import json
import pickle
import sys
import time
import zlib
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from rq import Queue
from rq.registry import clean_registries

from hpcpools.errors import RefusedError, UsageError
from hpcpools.short.stock import JsonJob, tame
from tests.short.lab import Lab, wait_for
from tests.short.rq_tools import JSON, cli, configure, give, hold, queue, release, rq, stock, workers
from tests.short.schedule_lab import Service


def _words(lab: Lab) -> list[str]:
    return [line[1] for line in lab.lines() if line[0] == "say"]


def test_round_robin(lab: Lab) -> None:
    """With ``order = "round_robin"`` one worker takes from one queue after the other, in each its order."""
    for number in range(3):
        for name in ("evaluation", "default", "preprocessing"):
            give(lab, "say", {"word": f"{name}{number}"}, queue=name)
    configure(lab, 'order = "round_robin"')
    assert lab.start_pool("burst", workers=1).wait(30) == 0
    names = ("default", "evaluation", "preprocessing")
    assert _words(lab) == [f"{name}{number}" for number in range(3) for name in names]


def test_burst_empties_all_queues(lab: Lab) -> None:
    """Burst with two workers ends once every queue is empty, and 0 if there was nothing to do."""
    assert lab.start_pool("burst").wait(30) == 0
    for name in ("default", "evaluation", "maintenance"):
        give(lab, "say", {"word": name}, queue=name)
    assert lab.start_pool("burst").wait(30) == 0
    assert sorted(_words(lab)) == ["default", "evaluation", "maintenance"]
    assert [each.count for each in Queue.all(connection=lab.redis, serializer=JSON)] == [0, 0, 0]


def test_empty(lab: Lab) -> None:
    """Queue.empty() and `rq empty` remove jobs and ids; the pool takes the next job as ever."""
    first = give(lab, "say", {"word": "no"})
    assert queue(lab).empty() == 1  # type: ignore[no-untyped-call]
    give(lab, "say", {"word": "no"}, queue="evaluation")
    assert "1 jobs removed" in rq(lab, "empty", "evaluation", "--serializer", "json")
    assert not lab.redis.exists(f"rq:job:{first.id}")
    give(lab, "say", {"word": "yes"})
    assert lab.start_pool("burst", workers=1).wait(30) == 0
    assert _words(lab) == ["yes"]


def test_position_and_order(lab: Lab) -> None:
    """Jobs wait in the order they came, at_front before them, and rq tells the place of each."""
    a, b = give(lab, "say"), give(lab, "say")
    c = give(lab, "say", at_front=True)
    assert queue(lab).get_job_ids() == [c.id, a.id, b.id]
    assert stock(lab, b).get_position() == 2 and queue(lab).get_job_position(c.id) == 0
    assert [job.id for job in queue(lab).get_jobs()] == [c.id, a.id, b.id]


@pytest.fixture
def scheduler(lab: Lab) -> Iterator[Service]:
    """The scheduler service of the lab."""
    service = Service("schedule", lab.config, lab.folder / "schedule.log")
    try:
        yield service
    finally:
        service.end()


def test_jobs_for_later(lab: Lab, scheduler: Service) -> None:
    """A delay and a time put a job into the scheduled registry, never early into its queue, at_front there
    too; a retry with an interval is tried again in time."""
    lab.start_pool(workers=1)
    at = datetime.now(timezone.utc) + timedelta(seconds=2)
    soon, late = give(lab, "say", {"word": "soon"}, delay=1.5), give(lab, "say", {"word": "late"}, at=at)
    never = give(lab, "say", {"word": "never"}, at=(at + timedelta(days=1)).isoformat())
    again = give(lab, "leave_meta", {"how": "once"}, retry_intervals=[1])
    assert [job.state for job in (soon, late, never)] == ["scheduled"] * 3
    registry = queue(lab).scheduled_job_registry
    assert {soon.id, late.id, never.id} <= set(registry.get_job_ids())
    assert abs(registry.get_scheduled_time(stock(lab, late)).timestamp() - at.timestamp()) <= 1
    assert soon.result(20) == "soon" and late.result(20) == "late"
    started = stock(lab, late).started_at
    assert started and started >= at
    assert again.result(20)["seen"] == ["default", "default"]
    assert never.refresh().state == "scheduled" and registry.get_job_ids() == [never.id]
    held = hold(lab)
    give(lab, "say", {"word": "waits"})
    first = give(lab, "say", {"word": "first"}, delay=0.2, at_front=True)
    wait_for(lambda: first.refresh().state == "queued", "it is in its queue")
    assert queue(lab).get_job_ids()[0] == first.id
    release(lab)
    assert held.result(20) == "seen" and first.result(20) == "first"


def test_rq_info(lab: Lab) -> None:
    """`rq info` shows queues, workers and counts of a running pool, and changes nothing."""
    lab.start_pool()
    lab.wait_idle_workers(2)
    assert give(lab, "say").result(20) == "hello"
    job = hold(lab)
    give(lab, "say", queue="evaluation", delay="1h")
    text = rq(lab, "info", "--raw")
    assert "queue default 0, 1 executing, 1 finished, 0 failed" in text
    assert text.count("worker ") == 2 and " busy default, evaluation, preprocessing, maintenance" in text
    assert "jobs: 1 finished, 0 failed" in text
    release(lab)
    assert job.result(20) == "seen"


def test_rq_info_does_not_fail_what_we_would_put_back(lab: Lab) -> None:
    """rq's own cleaning, long after the pool was killed, takes no job from us: the next pool runs it, and
    takes the dead worker off the list."""
    pool = lab.start_pool(workers=1)
    job = hold(lab)
    [dead] = lab.wait_idle_workers(1)
    pool.kill()
    pool.wait()
    registry = queue(lab).started_job_registry
    registry.cleanup(timestamp=time.time() + 100_000)
    clean_registries(queue(lab))
    assert job.refresh().state == "started" and lab.redis.zcard("rq:wip:default") == 1
    release(lab)
    lab.start_pool(workers=1)
    assert job.result(20) == "seen"
    assert dead not in lab.wait_idle_workers(1)


class _Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path(self.mark).touch, ()


@pytest.mark.parametrize("ours", [True, False])
def test_rq_info_on_planted_jobs(lab: Lab, ours: bool) -> None:
    """With our classes rq's tools neither unpickle, nor import callbacks, nor call webhooks that somebody
    planted; without them `rq info` does, which is why docs/rq.md names them."""
    mark = lab.folder / "pwned"
    lab.redis.sadd("rq:queues", "rq:queue:default")
    lab.redis.hset(
        "rq:job:planted",
        mapping={
            "data": zlib.compress(json.dumps(["os.getcwd", None, [], {}]).encode()),
            "status": "started",
            "origin": "default",
            "meta": pickle.dumps(_Evil(mark)),
            "failure_callback_name": "no_such_module.callback",
            "webhooks": json.dumps([{"url": "http://127.0.0.1:9/", "job_status": "failed"}]),
        },
    )
    lab.redis.zadd("rq:wip:default", {"planted:execution": 1})
    classes = [
        "--queue-class",
        "hpcpools.short.stock.JsonQueue",
        "--job-class",
        "hpcpools.short.stock.JsonJob",
    ]
    text = rq(lab, "info", *(classes if ours else []))
    assert "1 failed" in text and mark.exists() is not ours
    planted = JsonJob.fetch("planted", connection=lab.redis)
    assert planted.failure_callback is None and not planted.webhooks
    assert ("no_such_module" in text) is not ours


def test_rq_dashboard(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """rq-dashboard, with our classes, shows queues, workers, running and failed jobs as any other of rq's."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "rq_dashboard"]:
        monkeypatch.delitem(sys.modules, name)  # our own dashboard changes it for good
    rq_dashboard = pytest.importorskip("rq_dashboard")
    flask = pytest.importorskip("flask")
    web = importlib.import_module("rq_dashboard.web")
    lab.start_pool()
    lab.wait_idle_workers(2)
    bad = give(lab, "die", {"how": "raise"}, meta={"who": "me"})
    assert bad.wait(20) == "failed"
    job = hold(lab, meta={"who": "me"})
    child = give(lab, "say", depends_on=job)
    app = flask.Flask(__name__)
    app.config.from_object(rq_dashboard.default_settings)
    app.config["RQ_DASHBOARD_REDIS_URL"] = [lab.config.redis.url]
    web.setup_rq_connection(app)
    app.register_blueprint(rq_dashboard.blueprint)
    tame(web)
    with app.test_client() as client:

        def page(path: str) -> Any:
            return client.get(f"/0/data/{path}").get_json()

        [default] = [each for each in page("queues.json")["queues"] if each["name"] == "default"]
        assert (default["started_job_registry_count"], default["failed_job_registry_count"]) == (1, 1)
        found = page("workers.json")["workers"]
        assert {each["name"] for each in found} == set(workers(lab))
        assert [each["current_job"]["job_id"] for each in found if each["state"] == "busy"] == [job.id]
        shown = page(f"job/{bad.id}.json")
        assert shown["status"] == "failed" and "boom" in shown["exc_info"] and "me" in shown["metadata"]
        assert page(f"job/{child.id}.json")["depends_on"] == [job.id]
        assert page("jobs/default/deferred/8/asc/1.json")["jobs"][0]["id"] == child.id
    release(lab)
    assert child.result(20) == "hello"


def test_our_command_line(lab: Lab) -> None:
    """The options of `hpcpools enqueue` reach the job; --dry-run writes nothing; all failed jobs at once are
    put back with `requeue --all`."""
    task, log = "tests.short.tasks_for_tests:say", f"log={lab.log}"
    words = ["enqueue", task, log, "--result-ttl", "2h", "--failure-ttl", "3h", "--retry-interval", "0"]
    words += ["--retry-interval", "30s", "--timeout", "9s", "--meta", "who=me", "--unique", "one"]
    assert "would enqueue" in cli(lab, *words, "--dry-run") and lab.redis.dbsize() == 0
    assert cli(lab, *words).strip() == "one"
    job = stock(lab, "one")
    assert (job.result_ttl, job.failure_ttl, job.timeout) == (7200, 10800, 9)
    assert (job.retry_intervals, job.meta) == ([0, 30], {"who": "me"})
    assert "meta  " in (shown := cli(lab, "show", "one")) and "{'who': 'me'}" in shown
    with pytest.raises(RefusedError, match="taken"):
        cli(lab, *words)
    with pytest.raises(UsageError, match="lies in the past"):
        cli(lab, "enqueue", task, log, "--at", "2001-01-01T00:00")
    child = cli(lab, "enqueue", task, log, "--depends-on", "one", "--allow-failure", "--front").strip()
    assert stock(lab, child).is_deferred and stock(lab, child).allow_dependency_failures
    late = cli(lab, "enqueue", task, log, "--in", "5m", "--job-id", "late")
    assert "no scheduler runs" in late and stock(lab, "late").is_scheduled
    bad = [give(lab, "die", {"how": "raise"}, queue="evaluation").id for _ in range(2)]
    assert lab.start_pool("burst", workers=1).wait(30) == 0
    put_back = cli(lab, "requeue", "--all", "--queue", "evaluation").splitlines()
    assert sorted(line.split()[0] for line in put_back) == sorted(bad)
    assert queue(lab, "evaluation").get_job_ids() == [line.split()[0] for line in put_back]
