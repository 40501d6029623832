"""Memory that the kernel refuses: a training outgrows its node, is killed, and is tried again with less."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity.stage import Stage
from tests.project import Project

EATER = """
import time
from pathlib import Path
from hpcpools import training

@training(gpus=0, time="5m", launcher="single")
def eat(run, mb, go):
    while not Path(go).exists():
        time.sleep(0.05)
    eaten = []
    for _ in range(mb // 10):
        eaten.append(b"x" * (10 << 20))
    return len(eaten) * 10
"""


@pytest.fixture
def eater(memory_play: Project) -> Project:
    """A project with a training that needs as many MB as it is told, once it is told to go."""
    (memory_play.folder / "eater.py").write_text(EATER)
    memory_play.env["HPCPOOLS_PROJECT__MODULES"] = '["usertasks", "eater"]'
    return memory_play


def scan(site: Project) -> None:
    """What the scheduler does every five minutes, until it starts something again."""
    site.until(lambda: site.json("upkeep", "scan_failed_jobs")["restarted"], "a restart")


def test_the_kernel_kills_it_and_half_of_it_fits(eater: Project, memory_stage: Stage, tmp_path: Path) -> None:
    """400 MB do not fit a node of 300, 200 do. Slurm says FAILED of the job, OUT_OF_MEMORY of its step."""
    go = tmp_path / "go"
    eater.cli("up", "redis")
    token = eater.train("eater:eat", "mb=400", f"go={go}", "--on-oom", "halve:mb:100")
    eater.until_state(token, "RUNNING")
    memory_stage.out_of_memory(eater.json("show", token)["job_id"], go)
    eater.until(lambda: "restart 1 of" in str(eater.json("show", token)["reason"]), "the cause is found")
    shown = eater.json("show", token)
    steps = "[batch FAILED exit=1] [0 OUT_OF_MEMORY signal=125]"
    memory_stage.until_accounted(
        shown["attempts"][0]["job_id"], f"FAILED exit=1 submit start end nodes {steps}"
    )
    assert shown["cause"] == "out of memory"
    scan(eater)
    eater.cli("wait", token)
    assert eater.json("result", token) == 200
    assert eater.json("show", token)["arguments"] == {"mb": 400, "go": str(go)}


def test_a_killed_child_is_no_user_error(memory_site: Project) -> None:
    """The entry outlives the process that the kernel killed, and knows why it is gone; no restart asked."""
    hungry = "python3 -c 'x = b\"x\" * (600 << 20)'; exit 3"
    token = memory_site.train("--gpus", "0", "--", "sh", "-c", hungry)
    memory_site.until_state(token, "OUT_OF_MEMORY")
    shown = memory_site.json("show", token)
    assert (shown["cause"], shown["exit_code"]) == ("out of memory", 3)
    assert "out of memory" in shown["reason"]
