"""The templates as plain files: three lines edited, then bare sbatch on the real cluster."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import Cluster
from tests.project import Project
from tests.templates.test_cluster import GROUP, SAID, TASKS, lines, over

TEMPLATES = Path(__file__).parents[2] / "sbatch_templates"
EDITED = {
    "multinode": ("--partition=gpu --nodes=2", "--gpus-per-node=2", "(group.py --lr 0.1)"),
    "training": (
        "--partition=gpu",
        "--gpus-per-node=4",
        "(sh -c 'echo $CUDA_VISIBLE_DEVICES $SLURM_CPUS_PER_TASK')",
    ),
    "sweep": ("--partition=gpu --gpus-per-node=4", "--array=0-1%1", "(echo got)"),
    "preprocessing": (
        "--partition=cpu",
        "--cpus-per-task=3 --mem=100M",
        "(sh -c 'echo $OMP_NUM_THREADS')",
    ),
    "services": ("--partition=gpu", "--cpus-per-task=1 --mem=200M", "(hpcpools up --foreground redis)"),
    "worker": ("--partition=cpu", "--cpus-per-task=2 --mem=300M", "(hpcpools worker --burst --workers 1)"),
}
# As on a host of its own: the node's name, and a disk of the node.
HOST = """#!/bin/sh
export HPCPOOLS_SERVICES__RUNTIME_DIR=$XDG_STATE_HOME/disk-of-$SLURMD_NODENAME
exec unshare --uts sh -c 'hostname "$SLURMD_NODENAME"; exec "$@"' sh "$@"
"""


@pytest.fixture
def project(site: Project) -> Project:
    """The site with tasks that tell, and this Python's programs on PATH, as in an active environment."""
    with (site.folder / "usertasks.py").open("a") as file:
        file.write(TASKS)
    with (site.folder / "hpcpools.toml").open("a") as file:
        file.write("\n[short]\nworkers = 2\n")
    site.env["PATH"] = f"{site.folder}:{Path(sys.executable).parent}:{site.env['PATH']}"
    return site


def submitted(project: Project, name: str, *edited: str) -> str:
    """Edit the lines that are marked, and no other, and submit the file from its folder; the job's id."""
    new = iter(edited or EDITED[name])
    text = ""
    for line in (TEMPLATES / f"{name}.sbatch").read_text().splitlines():
        words, marked, comment = line.partition("# EDIT")
        if marked:
            words = f"#SBATCH {next(new)} " if line.startswith("#SBATCH") else f"command={next(new)} "
        text += f"{words}{marked}{comment}\n"
    assert not list(new)
    (project.folder / f"{name}.sbatch").write_text(text)
    done = subprocess.run(
        ["sbatch", "--parsable", f"{name}.sbatch"],
        cwd=project.folder, env=project.env, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_each_by_hand(project: Project, cluster: Cluster) -> None:
    """Each leaves in its output what only the right job could; the worker works off what waits."""
    folder = project.folder
    (folder / "group.py").write_text(GROUP)
    (folder / "points.txt").write_text("--lr 1e-3\n--lr 1e-2 --seed 'x'\n")
    jobs = {"services": submitted(project, "services")}
    said = folder / "hpcpools-services.log"
    cluster.wait(lambda: said.exists() and "services start" in said.read_text(), 60, "the services start")
    project.until(lambda: "running" in project.cli("ps", "redis", check=False).stdout, "Redis runs")
    project.cli("enqueue", "usertasks:held", f"log={folder / 'log'}", "name=a", f"until={folder}/points.txt")
    jobs |= {name: submitted(project, name) for name in EDITED if name != "services"}
    for name, words in SAID.items():
        ended = cluster.wait(partial(over, cluster, jobs[name]), 60, f"{name} ends")
        text = "".join(path.read_text() for path in sorted(folder.glob(f"{name}-{jobs[name]}*.log")))
        assert ended == {"COMPLETED"}, f"{name}: {ended}\n{text}"
        assert all(one in text for one in words), f"{name}: {text}"
    assert [line[:2] for line in lines(folder / "log")] == [["a", "start"], ["a", "end"]]
    cluster.run("scancel", jobs["services"])
    cluster.wait(partial(over, cluster, jobs["services"]), 60, "the services end")
    assert "ended with exit code 0" in said.read_text()


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("unshare"), reason="a host name needs root")
def test_the_services_move_to_another_node(project: Project, cluster: Cluster) -> None:
    """As docs/templates.md says: end, copy the data, name the node, submit. What waited runs there, once."""
    folder, log, go = project.folder, project.folder / "log", project.folder / "go"
    (folder / "on-its-host").write_text(HOST)
    (folder / "on-its-host").chmod(0o755)
    edited = ("--partition=gpu", "--cpus-per-task=1 --mem=300M", "(on-its-host hpcpools up --foreground)")
    command = [*shlex.split(edited[2][1:-1]), "redis", "short"]

    def at(node: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["on-its-host", "hpcpools", *words], cwd=folder, env={**project.env, "SLURMD_NODENAME": node},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def serves(node: str) -> bool:
        done = at(node, "ps", "--json")
        rows: list[dict[str, Any]] = json.loads(done.stdout) if done.returncode == 0 else []
        return {row["name"] for row in rows if row["state"] == "running"} == {"redis", "short"}

    def submit() -> str:
        return submitted(project, "services", *edited[:2], f"({shlex.join(command)})")

    submit()
    project.until((folder / "services.node").is_symlink, "it names its node")
    old = str((folder / "services.node").readlink())
    project.until(lambda: serves(old), "the services run")
    for name in ("a", "b", "c"):
        done = at(old, "enqueue", "usertasks:held", f"log={log}", f"name={name}", f"until={go}")
        assert done.returncode == 0, done.stderr
    project.until(lambda: len(lines(log)) == 2, "two tasks run, one waits")
    end = (
        "scancel",
        "--batch",
        "--signal=TERM",
        "--name=hpcpools-services",
    )  # else all are signalled at once
    cluster.run(*end)
    project.until(lambda: not cluster.jobs(), "the pool has ended")
    state = Path(project.env["XDG_STATE_HOME"])
    new = cluster.nodes[2]
    assert new != old
    subprocess.run(
        ["cp", "--archive", state / f"disk-of-{old}", state / f"disk-of-{new}"], check=True, timeout=60
    )
    shutil.rmtree(state / f"disk-of-{old}")
    subprocess.run(["ln", "-sfn", new, "services.node"], cwd=folder, check=True, timeout=60)
    submit()
    project.until(lambda: serves(new), "the services run on the other node")
    go.touch()
    project.until(lambda: len([w for w in lines(log) if w[1] == "end"]) == 3, "all tasks ended")
    assert sorted(words[0] for words in lines(log) if words[1] == "end") == ["a", "b", "c"]
    (job,) = cluster.jobs()
    assert cluster.run("squeue", "-h", "-o", "%N", "-j", job).stdout.strip() == new
    assert f"lives on {new}" in project.cli("ps").stderr
    cluster.run(*end)
    project.until(lambda: not cluster.jobs(), "the pool ends")
