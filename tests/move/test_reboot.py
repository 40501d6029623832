"""A reboot of the login node (REL-9): every Slurm job is known again, none is submitted twice."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from hpcpools.redisdb import keys
from tests.cluster.cluster import Cluster
from tests.move.lab import kill_all, redis, runtime_dir
from tests.project import Project

LIMIT = 30.0  # seconds


def known(project: Project) -> dict[str, tuple[Any, Any]]:
    """State and job id of every run."""
    return {row["run"]: (row["state"], row["job_id"]) for row in project.json("runs")["runs"]}


def in_slurm(cluster: Cluster) -> list[str]:
    """Every job and array element that Slurm has."""
    return sorted(cluster.run("squeue", "-h", "-r", "-o", "%i").stdout.split())


def submissions(project: Project) -> int:
    """How often a run was given to Slurm."""
    return len(list(project.root.glob("hp-*/submissions/*[0-9].json")))


def test_rel_9_reboot(site: Project, cluster: Cluster, tmp_path: Path) -> None:
    """kill -9 of everything, the runtime directory gone; `up`: all live jobs re-adopted in 30 s."""
    go, marks = tmp_path / "go", tmp_path / "marks"
    marks.mkdir()
    nodes = int(cluster.run("sinfo", "-h", "-p", cluster.partition, "-o", "%D").stdout)
    site.cli("up")
    for name in ("a", "b"):
        site.train("usertasks:hold", f"until={go}", f"mark={marks / name}")
    names = ",".join(str(marks / f"s{number}") for number in range(nodes))
    site.cli("sweep", "usertasks:hold", f"until={go}", f"mark={names}")
    site.until(lambda: len(list(marks.iterdir())) == nodes, "all nodes are busy")
    before = site.until(
        lambda: next(
            (seen for seen in [known(site)] if [s for s, _ in seen.values()].count("RUNNING") == nodes), None
        ),
        "as many run",
    )
    assert {state for state, _ in before.values()} == {"RUNNING", "PENDING"}
    jobs, sent = in_slurm(cluster), submissions(site)

    folder = runtime_dir(site)
    kill_all(site)
    shutil.rmtree(folder)
    began = time.monotonic()
    said = site.cli("up").stderr
    after = known(site)
    rows = {token.decode(): json.loads(row) for token, row in redis(site).hgetall(keys.INDEX).items()}
    took = time.monotonic() - began
    assert f"{len(before)} runs are indexed again" in said
    assert after == before
    assert {token: (row["state"], row["job_id"]) for token, row in rows.items()} == before
    assert took < LIMIT
    assert (in_slurm(cluster), submissions(site)) == (jobs, sent)

    go.touch()
    site.cli("wait", *before, "--timeout", "60s")
    assert {state for state, _ in known(site).values()} == {"COMPLETED"}
    assert {file.read_text().count("start") for file in marks.iterdir()} == {1}
