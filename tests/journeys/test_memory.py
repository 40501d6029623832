"""Memory that the kernel refuses: a training outgrows its node, is killed, and is tried again with less."""

from __future__ import annotations

import pytest

from tests.cluster.cluster import Cluster
from tests.project import Project

EATER = """
from hpcpools import training

@training(gpus=0, time="5m", launcher="single")
def eat(run, mb):
    eaten = []
    for _ in range(mb // 10):
        eaten.append(b"x" * (10 << 20))
    return len(eaten) * 10
"""


@pytest.fixture
def eater(memory_site: Project) -> Project:
    """A project with a training that needs as many MB as it is told."""
    (memory_site.folder / "eater.py").write_text(EATER)
    memory_site.env["HPCPOOLS_PROJECT__MODULES"] = '["usertasks", "eater"]'
    return memory_site


def scan(site: Project) -> None:
    """What the scheduler does every five minutes, until it starts something again."""
    site.until(lambda: site.json("upkeep", "scan_failed_jobs")["restarted"], "a restart")


def test_the_kernel_kills_it_and_half_of_it_fits(eater: Project, memory_cluster: Cluster) -> None:
    """400 MB do not fit a node of 300, 200 do. Slurm says FAILED of the job, OUT_OF_MEMORY of its step."""
    eater.cli("up", "redis")
    token = eater.train("eater:eat", "mb=400", "--on-oom", "halve:mb:100")
    eater.until(lambda: "restart 1 of" in str(eater.json("show", token)["reason"]), "the cause is found")
    shown = eater.json("show", token)
    job = shown["attempts"][0]["job_id"]
    steps = memory_cluster.run("sacct", "-n", "-P", "-j", job, "-o", "JobID,State").stdout.splitlines()
    assert {f"{job}|FAILED", f"{job}.0|OUT_OF_MEMORY"} <= set(steps)
    assert shown["cause"] == "out of memory"
    scan(eater)
    eater.cli("wait", token)
    assert eater.json("result", token) == 200
    assert eater.json("show", token)["arguments"] == {"mb": 400}


def test_a_killed_child_is_no_user_error(eater: Project) -> None:
    """The entry outlives the process that the kernel killed, and knows why it is gone; no restart asked."""
    hungry = "python3 -c 'x = b\"x\" * (600 << 20)'; exit 3"
    token = eater.train("--gpus", "0", "--", "sh", "-c", hungry)
    eater.until_state(token, "OUT_OF_MEMORY")
    shown = eater.json("show", token)
    assert (shown["cause"], shown["exit_code"]) == ("out of memory", 3)
    assert "out of memory" in shown["reason"]
