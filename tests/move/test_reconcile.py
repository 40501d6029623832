"""`hpcpools reconcile` after a wiped Redis (REL-4): all that the files know is back, each job once."""

from __future__ import annotations

from pathlib import Path

from hpcpools.redisdb import keys
from hpcpools.runs import checkpoints
from tests.move.lab import plant, prepared, redis
from tests.project import Project

RUNS = 300
SETTINGS = """
[short]
workers = 1
[continuous_evaluation]
"usertasks:learn" = "usertasks:score"
"""
CHAIN = """
name = "chain"
[stages.first]
task = "usertasks:stay"
arguments = {{until = "{go}", mark = "{mark}"}}
"""


def queued(project: Project) -> int:
    """Jobs that wait."""
    client = redis(project)
    return sum(int(client.llen(key)) for key in client.scan_iter("rq:queue:*"))


def test_rel_4_reconcile(laptop: Project, tmp_path: Path) -> None:
    """The index whole, a pipeline's stage and an evaluation enqueued again, both once; a dry run first."""
    prepared(laptop, SETTINGS)
    tokens = plant(laptop.root, RUNS)
    with checkpoints.writing(laptop.root / tokens[0] / "checkpoints", 1, 0.0, {}) as folder:
        (folder / "weights").write_text("1")
    (laptop.root / ".evaluations").mkdir(mode=0o700)
    (laptop.root / ".evaluations" / "since.json").write_text('{"at": 0.0}')
    go, mark = tmp_path / "go", tmp_path / "mark"
    (laptop.folder / "chain.toml").write_text(CHAIN.format(go=go, mark=mark))
    laptop.cli("up", "redis")
    laptop.cli("pipeline", "run", "chain.toml")
    laptop.cli("upkeep", "advance_pipelines")
    assert queued(laptop) == 2

    redis(laptop).flushall()
    plan = laptop.json("reconcile", "--dry-run")
    assert (plan["wiped"], plan["missing"], len(plan["jobs"])) == (True, RUNS, 2)
    assert redis(laptop).dbsize() == 0
    found = laptop.json("reconcile")
    assert (found["runs"], found["missing"], found["jobs"]) == (RUNS, RUNS, plan["jobs"])
    assert found["problems"] == []
    assert {key.decode() for key in redis(laptop).hkeys(keys.INDEX)} == set(tokens)
    assert queued(laptop) == 2

    redis(laptop).hset(keys.INDEX, "hp-gone", "{}")
    again = laptop.json("reconcile")
    assert (again["wiped"], again["missing"], again["stale"], again["jobs"]) == (False, 0, 1, [])
    assert (redis(laptop).hlen(keys.INDEX), queued(laptop)) == (RUNS, 2)

    redis(laptop).flushall()
    said = laptop.cli("up", "short").stderr
    assert f"Redis was empty: {RUNS} runs are indexed again, 2 short jobs" in said
    go.touch()
    laptop.until(lambda: any(laptop.root.glob(".pipelines/hq-*/first.1.done.json")), "the stage ended")
    laptop.until(lambda: any((laptop.root / tokens[0]).glob("evaluations/*.done.json")), "so did the other")
    assert mark.read_text() == "start\n"
