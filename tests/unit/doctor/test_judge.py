"""What the doctor makes of facts: each bad one is found, with something to do; good ones are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from hpcpools.config import Config, parse
from hpcpools.doctor import bundle, places, pools, probe, site, store, versions, worst
from hpcpools.doctor.finding import Finding
from hpcpools.short.timetable import ScheduleStatus
from hpcpools.short.views import JobView, QueueView, WorkerView
from hpcpools.slurm.site import Partition, Site

REDIS = {"redis_version": "7.0.15", "aof_enabled": 1, "maxmemory_policy": "noeviction", "used_memory": 1}
GPU = Partition("gpu", True, 3, 4, 64, 500_000, 1440, 60, "up")
SITE = Site("lab", "22.05.8", (GPU,), True, True, 30, 300, True, "OFF", "preempt/none", False, 1001)
WORKER = WorkerView("w", "h", 1, "idle", "", ("default",), 1.0, 10.0, 0, 0)
QUEUE = QueueView("default", 0, None, 0, 0, 0, 0, 0)
ROW = ScheduleStatus(
    "scan", "m:f", "every 60s", "UTC", "maintenance", "on", False, None, 940, 940.0, "j", "finished",
    1000.0, 0.1, 0.1, 0.1, 5, 0, (), 0, "", "host:1", 0.5,
)  # fmt: skip


def bad(findings: object) -> list[Finding]:
    """Those that are not ok; each must say what to do."""
    found = [each for each in findings if each.level != "ok"]  # type: ignore[attr-defined]
    assert all(each.fix for each in found)
    return found


def test_redis_as_it_should_be() -> None:
    """Our own settings raise nothing."""
    assert bad(store.judge(REDIS, "always")) == []
    assert bad(store.judge(REDIS, "")) == []  # may not be read


@pytest.mark.parametrize(
    ("change", "fsync", "level", "word"),
    [
        ({"redis_version": "5.0.7"}, "always", "fail", "too old"),
        ({"aof_enabled": 0}, "always", "fail", "appendonly"),
        ({"aof_last_write_status": "err"}, "always", "fail", "cannot be written"),
        ({}, "everysec", "warn", "everysec"),
        ({"maxmemory_policy": "allkeys-lru"}, "always", "fail", "vanish"),
        ({"maxmemory": 100, "used_memory": 81}, "always", "warn", "81%"),
    ],
)
def test_redis_that_loses_jobs(change: dict[str, object], fsync: str, level: str, word: str) -> None:
    """Each setting by itself."""
    (found,) = bad(store.judge({**REDIS, **change}, fsync))
    assert found.level == level
    assert word in found.text


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"partitions": ()}, "no default partition"),
        ({"partitions": (replace(GPU, state="down"),)}, "is down"),
        ({"partitions": (replace(GPU, gpus_per_node=0),)}, "no GPU"),
        ({"has_accounting": False}, "accounting"),
        ({"kill_wait_s": 5}, "KillWait"),
    ],
)
def test_sites_that_make_it_hard(change: dict[str, object], word: str) -> None:
    """Each setting by itself; the good site raises nothing."""
    assert bad(site.judge(SITE, "")) == []
    (found,) = bad(site.judge(replace(SITE, **change), ""))  # type: ignore[arg-type]
    assert word in found.text


def test_the_short_pool_and_its_schedule() -> None:
    """Nobody serves, long waits, nobody schedules, overdue, failed."""
    config = parse({}, Path("/nowhere/hpcpools.toml"), {})
    assert bad(pools.judge_short(config, [WORKER], [QUEUE])) == []
    assert worst(bad(pools.judge_short(config, [], [QUEUE]))) == "warn"
    first, late = (
        structs.replace(QUEUE, waiting=1, oldest=1.0),
        structs.replace(QUEUE, waiting=2, oldest=400.0),
    )
    assert worst(bad(pools.judge_short(config, [], [first]))) == "fail"
    (found,) = bad(pools.judge_short(config, [WORKER], [late]))
    assert "400 s" in found.text
    assert bad(pools.judge_schedule([ROW], 1000.0)) == []
    assert worst(bad(pools.judge_schedule([structs.replace(ROW, holder="")], 1000.0))) == "fail"
    assert worst(bad(pools.judge_schedule([ROW], 1100.0))) == "fail"
    assert worst(bad(pools.judge_schedule([structs.replace(ROW, last_state="failed")], 1000.0))) == "warn"


def test_a_job_without_a_worker() -> None:
    """One that began long ago is told; one that has its worker, or whose worker may just have died: not."""
    job = JobView("j", "m:f()", "default", "started", "gone", 900.0, 900.0, None)
    mine, young = structs.replace(job, worker=WORKER.name), structs.replace(job, started=990.0)
    assert bad(pools.judge_held([WORKER], [mine, young], 1000.0)) == []
    (found,) = bad(pools.judge_held([WORKER], [mine, young, job], 1000.0))
    assert found.level == "fail" and "1 started jobs have no live worker, j" in found.text


@pytest.mark.parametrize(
    ("change", "level"),
    [
        ({"rq": "2.6"}, "fail"),
        ({"rq": ""}, "fail"),
        ({"rq": "4.0.1"}, "warn"),
        ({"torch": "2.9.1+cpu"}, "fail"),
        ({"torch": "2.10.0+cu128"}, "ok"),
    ],
)
def test_versions(change: dict[str, str], level: str) -> None:
    """Bounds from both sides; local version parts do not count."""
    good = {"rq": "3.0.0", "rq-scheduler": "0.14.0", "redis": "8.1.0", "submitit": "1.5.4", "click": "8.2"}
    found = list(versions.judge({**good, "nvidia-ml-py": "13.580.65", **change}))
    assert worst(found) == level


def test_the_node_s_clock_and_user() -> None:
    """The answer was written between two times of ours, or a clock is wrong."""
    import os

    answer = {"node": "n1", "uid": os.geteuid(), "at": 105.0, "python": "3.11"}
    assert bad(probe.judge(answer, 100.0, 110.0)) == []
    assert "+20.0 s" in bad(probe.judge({**answer, "at": 130.0}, 100.0, 110.0))[0].text
    assert "-50.0 s" in bad(probe.judge({**answer, "at": 50.0}, 100.0, 110.0))[0].text
    assert worst(bad(probe.judge({**answer, "uid": 12345}, 100.0, 110.0))) == "fail"


def test_open_folders_are_found(tmp_path: Path) -> None:
    """A root that others may enter, and one that is as it should be."""

    def config(mode: int) -> Config:
        folder = tmp_path / str(mode)
        (folder / "runs").mkdir(parents=True)
        (folder / "runs").chmod(mode)
        return parse({"services": {"runtime_dir": "rt"}}, folder / "hpcpools.toml", {})

    (found,) = [each for each in places.check(config(0o755)) if each.check == "runs"]
    assert found.level == "fail"
    assert "chmod 700" in found.fix
    assert [each for each in places.check(config(0o700)) if each.level == "fail"] == []


def test_the_bundle_holds_no_secret(tmp_path: Path) -> None:
    """A canary in the configuration, in a log and in a finding is in none of its files (SEC-7)."""
    canary = "canary-9f3a"
    data = {
        "services": {"runtime_dir": "rt"},
        "redis": {"url": "rediss://r.example", "password_file": "pw"},
        "training": {"setup": [f"export WANDB_API_KEY={canary}"]},
    }
    config = parse(data, tmp_path / "hpcpools.toml", {})
    Path(config.file).write_text(f"# {canary}\n")
    logs = config.runtime_dir / "logs"
    logs.mkdir(parents=True)
    (logs / "short.log").write_text(f"2026 note=1 url=https://me:{canary}@x.example TOKEN={canary}\n")
    found = [Finding("redis", "fail", f"PASSWORD={canary} was refused", "")]
    texts = dict(bundle.contents(config, found))
    assert set(texts) == {"findings.json", "environment.json", "runs.json", "logs/short.log"}
    assert [name for name, text in texts.items() if canary in text] == []
    assert "note=1" in texts["logs/short.log"]
