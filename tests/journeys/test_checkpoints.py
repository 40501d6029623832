"""Checkpoints through the command line, and the example of the documentation on two ranks under Slurm."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

from hpcpools import atomic
from hpcpools.runs import checkpoints, directory, token
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Request, Resources
from hpcpools.runs.states import RunState
from tests.cluster.cluster import Cluster
from tests.project import Project

DOCS = Path(__file__).parents[2] / "docs" / "checkpoints.md"
EVIL = "cos\nsystem\n(S'touch {}'\ntR."  # a pickle that runs a command


def finished_run(project: Project) -> RunDirectory:
    """A run that is over, with the checkpoints 1, 2 and 3."""
    now = time.time()
    request = Request(token.new_token(now), now, "local", Resources(), command=("true",))
    run = directory.create(project.root, request)
    run.record(RunState.COMPLETED, now)
    for step in (1, 2, 3):
        with checkpoints.writing(run.checkpoints, step, now, {"loss": 1 / step}) as folder:
            (folder / "state.pt").write_text(f"state {step}" * 1000)
    return run


def test_list_verify_export(laptop: Project, tmp_path: Path) -> None:
    """The table, the digests, exit 5 for a damaged one, a copy of the newest valid, no overwriting."""
    run = finished_run(laptop)
    laptop.cli("pin", run.token, 2)
    listed = laptop.cli("checkpoints", run.token).stdout.splitlines()
    assert listed[0].split() == ["STEP", "SIZE", "AGE", "TOOK", "METRICS", "PINNED", "VALID"]
    assert re.match(r"2 +6\.8 KiB +\d+s ago +\d\.\d\ds +loss=0\.5 +yes +not checked", listed[2])
    assert len(re.findall(r" yes *\n", laptop.cli("checkpoints", run.token, "--verify").stdout)) == 3
    (run.checkpoints / "step-000000003" / "state.pt").write_text("rot")
    (run.checkpoints / "step-000000004").mkdir(mode=0o700)
    assert laptop.cli("checkpoints", run.token).returncode == 0
    bad = laptop.cli("checkpoints", run.token, "--verify", check=False)
    assert bad.returncode == 5
    assert "state.pt differs from its digest" in bad.stdout
    assert "step-000000004 is no checkpoint" in bad.stderr
    told = json.loads(laptop.cli("checkpoints", run.token, "--verify", "--json", check=False).stdout)
    assert [bool(row["fault"]) for row in told["checkpoints"]] == [False, False, True]
    assert [row["pinned"] for row in told["checkpoints"]] == [False, True, False]
    out = tmp_path / "out"
    assert "would copy" in laptop.cli("export", run.token, out, "--dry-run").stdout
    assert not out.exists()
    assert "step 2 (6.8 KiB)" in laptop.cli("export", run.token, out).stdout
    assert (out / "state.pt").read_text() == "state 2" * 1000
    assert laptop.cli("export", run.token, out, check=False).returncode == 2
    refused = laptop.cli("export", run.token, tmp_path / "three", "--step", 3, check=False)
    assert (refused.returncode, "is damaged" in refused.stderr) == (4, True)
    assert laptop.cli("export", run.token, tmp_path / "nine", "--step", 9, check=False).returncode == 3


def test_verifying_shows_its_progress_on_a_terminal(laptop: Project) -> None:
    """A bar on stderr when that is a terminal; stdout stays the table."""
    run = finished_run(laptop)
    master, slave = pty.openpty()
    shown = subprocess.Popen(
        [sys.executable, "-m", "hpcpools", "checkpoints", run.token, "--verify"],
        cwd=laptop.folder,
        env={**laptop.env, "TERM": "xterm", "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=slave,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    os.close(slave)
    out, _ = shown.communicate(timeout=60)
    assert b"verifying" in os.read(master, 65536)
    os.close(master)
    assert shown.returncode == 0
    assert "verifying" not in out


def test_crafted_checkpoints_run_nothing(laptop: Project, tmp_path: Path) -> None:
    """A pickle as state.pt and as DCP's .metadata: listed, verified, exported, pruned, never loaded."""
    run = finished_run(laptop)
    mark = tmp_path / "pwned"
    for step, name in ((4, "state.pt"), (5, ".metadata"), (6, "state.pt")):
        with checkpoints.writing(run.checkpoints, step, time.time(), {}) as folder:
            (folder / name).write_text(EVIL.format(mark))
    assert checkpoints.newest_valid(run.checkpoints) is not None
    for words in (
        ["checkpoints", run.token], ["checkpoints", run.token, "--verify"], ["show", run.token],
        ["export", run.token, tmp_path / "4", "--step", 4],
        ["export", run.token, tmp_path / "5", "--step", 5], ["cleanup", run.token],
    ):  # fmt: skip
        laptop.cli(*words)
    left = [found.step for found in checkpoints.complete(run.checkpoints)]
    assert 6 in left
    assert len(left) < 6
    assert not mark.exists()


def example(project: Project, *, pace: float = 0.0) -> None:
    """``train.py`` of the documentation; ``pace`` seconds a step, so that it can be interrupted."""
    found = re.search(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert found is not None
    text = found[1].replace(
        "        scheduler.step()\n", f"        scheduler.step()\n        pause({pace})\n"
    )
    # gloo's threads may abort a process at its very end (pytorch/pytorch#179291): leave before that.
    text = text.replace("sys.exit(75)", "leave(75)") + "leave(0)\n"
    head = "import os, sys\nfrom time import sleep as pause\n"
    head += "def leave(code):\n    sys.stdout.flush()\n    os._exit(code)\n"
    (project.folder / "train.py").write_text(head + text)


def losses(project: Project, name: str) -> dict[int, float]:
    """What rank 0 logged, by step."""
    lines = atomic.read_lines(project.root / name / "metrics.jsonl")
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def test_the_documented_example_resumes_to_the_bit_on_two_ranks(site: Project, cluster: Cluster) -> None:
    """Requeued in the middle: both ranks stop at one step, both go on from it, the losses are the same."""
    command = ("--gpus", "2", "--", sys.executable, "train.py", "60")
    example(site)
    straight = site.train(*command)
    site.cli("wait", straight)
    example(site, pace=0.1)
    broken = site.train(*command)
    site.until(lambda: len(losses(site, broken)) >= 10, "ten steps")
    cluster.run("scontrol", "requeue", site.json("show", broken)["job_id"])
    site.until(lambda: checkpoints.complete(site.root / broken / "checkpoints"), "the checkpoint of the stop")
    site.cli("wait", broken)
    assert losses(site, broken) == losses(site, straight)
    assert len(losses(site, straight)) == 60
    stopped = site.json("checkpoints", broken)["checkpoints"][0]["step"]
    assert 10 <= stopped < 60
    log = site.cli("logs", broken, "--attempt", "2").stdout
    for rank in range(2):
        assert f"rank {rank} goes on from step {stopped}" in log
