"""What the exporter says is what is the case, cheap to ask for, bounded, and safe to print."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import pytest
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST

from hpcpools.config import Config
from hpcpools.monitoring.collector import Collector
from hpcpools.redisdb import keys
from hpcpools.redisdb.connect import connect
from hpcpools.runs.token import new_token
from hpcpools.short import tally
from hpcpools.short.outcome import CAUSES
from hpcpools.textsafe import one_line
from tests.monitoring.conftest import Pool
from tests.monitoring.lab import families, openmetrics, promtool, value
from tests.short.lab import Lab

HOSTILE = 'm:x"} 1\nevil{a="\\\x1b]0;owned\x07\u202e'


def page(config: Config) -> bytes:
    """One scrape in this process."""
    return Collector(config).text()


def test_runs_gpus_and_slurm(pool: Pool) -> None:
    """Three runs: one ended after a restart, one runs, one waits; and what was asked of Slurm."""
    text = page(pool.config)
    assert value(text, "hpcpools_runs", state="FAILED", engine="slurm") == 1
    assert value(text, "hpcpools_runs", state="RUNNING", engine="slurm") == 1
    assert value(text, "hpcpools_runs", state="PENDING", engine="slurm") == 1
    assert value(text, "hpcpools_runs", state="LOST", engine="local") == 0
    assert value(text, "hpcpools_runs_ended", cause="node failure") == 1
    assert value(text, "hpcpools_run_restarts", kind="node_failure") == 1
    assert value(text, "hpcpools_runs_breaker_open") == 1
    assert value(text, "hpcpools_run_pending_seconds", stat="max") == pytest.approx(300, abs=1)
    assert value(text, "hpcpools_run_pending_seconds", stat="p50") == pytest.approx(300, abs=1)
    assert 60 <= value(text, "hpcpools_runs_oldest_pending_seconds") < 600
    assert value(text, "hpcpools_gpus_held") == 2
    assert value(text, "hpcpools_gpu_utilisation_ratio") == pytest.approx(0.6)
    assert value(text, "hpcpools_runs_gpu_verdict", verdict="idle") == 1
    # four GPUs for 3600 s and again for 1800 s, two for 600 s and as long as this test took to get here
    held = value(text, "hpcpools_gpu_seconds", kind="held")
    assert 4 * 3600 + 4 * 1800 + 2 * 600 <= held + 1 < 4 * 3600 + 4 * 1800 + 2 * 1200
    assert value(text, "hpcpools_gpu_seconds", kind="used") == pytest.approx(7500)
    assert 20 <= value(text, "hpcpools_slurm_answer_age_seconds") < 600
    assert value(text, "hpcpools_slurm_call_seconds_count", command="squeue") == 3
    assert value(text, "hpcpools_slurm_call_seconds_bucket", command="squeue", le="0.5") == 2
    assert value(text, "hpcpools_slurm_call_failures_total", command="squeue") == 1


def test_pool_schedule_redis_and_services(pool: Pool) -> None:
    """Workers, queues, durations, firings, the append-only file; every source answers."""
    text = page(pool.config)
    assert value(text, "hpcpools_workers_alive", pool="short") == 2
    assert value(text, "hpcpools_workers_wanted", pool="short") == 2
    assert value(text, "hpcpools_queue_jobs", queue="default", state="failed") == 1
    assert value(text, "hpcpools_queue_jobs", queue="slurm", state="waiting") == 0
    assert value(text, "hpcpools_jobs_total", outcome="failed") >= 1
    assert value(text, "hpcpools_job_failures_total", cause="raised") >= 1
    assert value(text, "hpcpools_job_failures_total", cause="lost") == 0
    ran = {"task": "usertasks:evaluate", "outcome": "finished"}
    assert value(text, "hpcpools_task_duration_seconds_bucket", le="+Inf", **ran) >= 1
    assert value(text, "hpcpools_task_duration_seconds_sum", **ran) >= 2.0
    assert value(text, "hpcpools_queue_wait_seconds_count", queue="evaluation") >= 1
    assert value(text, "hpcpools_scheduler_live") == 1
    assert value(text, "hpcpools_scheduler_tick_age_seconds") < 30
    assert value(text, "hpcpools_schedule_fired_total", schedule="advance_pipelines") >= 1
    assert value(text, "hpcpools_schedule_overdue_seconds", schedule="scan_failed_jobs") < 30
    assert value(text, "hpcpools_redis_aof_enabled") == 1
    assert value(text, "hpcpools_redis_memory_bytes") > 100_000
    assert value(text, "hpcpools_service_running", service="exporter") == 1
    assert value(text, "hpcpools_lane_batches", phase="pending") == 0
    up = families(text)["hpcpools_source_up"].samples
    assert {sample.labels["source"]: sample.value for sample in up} == dict.fromkeys(
        ("slurm", "services", "lane", "redis", "pool", "schedule", "runs"), 1.0
    )


def test_both_formats_are_valid_and_promtool_agrees(pool: Pool) -> None:
    """The strict OpenMetrics parser reads one, promtool the other; both name the same families."""
    collector = Collector(pool.config)
    text = collector.text()
    strict, kind = collector.page(CONTENT_TYPE_LATEST)
    assert kind.startswith("application/openmetrics-text")
    assert set(openmetrics(strict)) == {name.removesuffix("_info") for name in families(text)}
    assert promtool("check", "metrics", stdin=text) == ""


def test_labels_are_bounded_and_safe(lab: Lab) -> None:
    """Hostile names in Redis: at most 200 and `other`, every line whole, no control character; junk is no
    reason to see nothing."""
    with lab.redis.pipeline() as pipe:
        pipe.hset(tally.KEY, f"ran 0 {HOSTILE}", 5)
        pipe.hset(tally.KEY, f"ran 0 {one_line(HOSTILE)}", 2)  # looks the same once it is escaped
        for number in range(400):
            pipe.hset(tally.KEY, f"failed 1 z:task{number:03}", 1)
        for junk in (b"", b"ran", b"ran 0", b"ran 99 x", b"ran -1 x", b"odd 1 x", b"\xff\xfe \xff"):
            pipe.hset(tally.KEY, junk, 1)
        pipe.hset(tally.KEY, "ran 1 m:nan", "nan")
        pipe.hset(tally.KEY, mapping={"cause owned": 9, "cause limit": "nan", "cause memory": 3})
        pipe.hset(keys.INDEX, "hp-x", "[]")
        pipe.hset(keys.INDEX, "hp-y", json.dumps({"state": "OWNED", "engine": "slurm", "created": 0}))
        pipe.hset(keys.INDEX, "hp-z", json.dumps(_row(state="FAILED", cause=HOSTILE, engine=HOSTILE)))
        pipe.set(keys.INDEX_AS_OF, time.time())
        pipe.execute()
    text = page(lab.config)
    assert promtool("check", "metrics", stdin=text) == ""
    assert not {byte for byte in text if byte < 32 and byte != 10}
    assert "\u202e" not in text.decode()
    found = families(text)
    tasks = {one.labels["task"] for one in found["hpcpools_task_duration_seconds"].samples}
    assert len(tasks) == tally.MOST  # `other` among them, and two that look the same are one
    assert value(text, "hpcpools_jobs_total", outcome="failed") == 400
    assert value(text, "hpcpools_jobs_total", outcome="finished") == 7
    why = {one.labels["cause"]: one.value for one in found["hpcpools_job_failures"].samples}
    assert why == {**dict.fromkeys(CAUSES, 0.0), "memory": 3.0}
    assert value(text, "hpcpools_index_unreadable") == 2
    assert value(text, "hpcpools_runs_ended", cause="other") == 1
    assert "owned" not in {one.labels["cause"] for one in found["hpcpools_runs_ended"].samples}
    assert value(text, "hpcpools_source_up", source="pool") == 1


def test_a_thousand_runs_cost_little(lab: Lab) -> None:
    """The first scrape after an update of the index within a second; the next does not read it again."""
    rows = {new_token(time.time()): json.dumps(_row()) for _ in range(1000)}
    lab.redis.hset(keys.INDEX, mapping=rows)  # type: ignore[arg-type]
    lab.redis.set(keys.INDEX_AS_OF, time.time())
    collector = Collector(lab.config)
    begun = time.monotonic()
    text = collector.text()
    assert time.monotonic() - begun < 1.0
    assert value(text, "hpcpools_runs", state="RUNNING", engine="slurm") == 1000
    lab.redis.hset(keys.INDEX, new_token(time.time()), json.dumps(_row()))
    assert value(collector.text(), "hpcpools_runs", state="RUNNING", engine="slurm") == 1000
    lab.redis.set(keys.INDEX_AS_OF, time.time())
    assert value(collector.text(), "hpcpools_runs", state="RUNNING", engine="slurm") == 1001


def test_without_redis_the_rest_is_told(lab: Lab) -> None:
    """A dead or hung Redis: its sources are down, files and services are not; it recovers by itself."""
    collector = Collector(lab.config)
    lab.server.kill()
    lab.server.wait()
    text = collector.text()
    for source in ("redis", "pool", "schedule", "runs"):
        assert value(text, "hpcpools_source_up", source=source) == 0
    assert value(text, "hpcpools_source_up", source="slurm") == 1
    assert "hpcpools_workers_alive" not in families(text)
    lab.start_redis()
    assert value(collector.text(), "hpcpools_source_up", source="pool") == 1
    lab.server.send_signal(signal.SIGSTOP)  # hangs, rather than being away
    try:
        begun = time.monotonic()
        assert value(collector.text(), "hpcpools_source_up", source="pool") == 0
        assert time.monotonic() - begun < 8
    finally:
        lab.server.send_signal(signal.SIGCONT)


def test_no_slurm_command_is_run(pool: Pool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With programs on PATH that would tell, a scrape asks none."""
    for name in ("squeue", "sacct", "sbatch", "sinfo", "scontrol"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/asked\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    page(pool.config)
    assert not (tmp_path / "asked").exists()


def test_the_index_carries_nothing_that_the_runs_do_not(pool: Pool) -> None:
    """A wiped index is rebuilt with the same measures."""
    with connect(pool.config) as connection:
        before = connection.hgetall(keys.INDEX)
        connection.delete(keys.INDEX, keys.INDEX_AS_OF)
        assert "hpcpools_runs" not in families(page(pool.config))
        pool.project.cli("upkeep", "update_job_metrics")
        after = connection.hgetall(keys.INDEX)
    assert before.keys() == after.keys()
    assert value(page(pool.config), "hpcpools_run_restarts", kind="node_failure") == 1


def test_every_metric_is_described(pool: Pool) -> None:
    """docs/monitoring.md has each series in its table, in full or by its end, and no other."""
    text = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()
    words = {
        word
        for line in text.splitlines()
        if line.startswith("| `hpcpools_")
        for word in re.findall(r"`(\w+)`", line)
    }
    full = {word for word in words if word.startswith("hpcpools_")}
    ends = tuple(words - full)
    known = {
        name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        for name, family in openmetrics(Collector(pool.config).page(CONTENT_TYPE_LATEST)[0]).items()
    }
    assert full - known == set()
    assert {name for name in known - full if not name.endswith(ends)} == set()
    assert all(any(name.endswith(end) for name in known) for end in ends)


def _row(**facts: object) -> dict[str, object]:
    """A row as large as real ones."""
    now = time.time()
    return {
        "state": "RUNNING", "cause": "", "engine": "slurm", "created": now - 100, "started": now - 50,
        "gpus": 4, "nodes": 1, "breaker": False, "restarts": {"preemption": 2},
        "gpu_hours": {"held": 1.0, "measured": 1.0, "used": 0.5}, "gpu_utilisation": 0.5, "gpu_verdict": "",
        "reason": "x" * 200, "what": "tasks:train", "metrics": {"loss": 0.5, "accuracy": 0.9},
    } | facts  # fmt: skip
