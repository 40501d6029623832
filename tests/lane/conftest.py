"""A project on the cluster with a Slurm lane, and tasks that tell an outside log what they do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.conftest import SITE
from tests.lane.desk import Desk
from tests.project import Project
from tests.short.lab import Lab

TASKS = """
import fcntl

def tell(log, *words):
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(fd, (" ".join(map(str, words)) + "\\n").encode())
    os.close(fd)

@task(timeout="1m")
def work(log, number, seconds=0.1):
    lock = os.open(f"{log}.{number}", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        tell(log, "overlap", number, os.getpid())
    tell(log, "start", number, os.getpid())
    time.sleep(seconds)
    tell(log, "end", number, os.getpid())
    return number

@task(slurm=True, timeout="5m", retries=1)
def until(log, number, go):
    tell(log, "start", number, os.getpid())
    print("working", number, flush=True)
    wait_for(go)
    tell(log, "end", number, os.getpid())
    return number

@task(queue="evaluation", gpus=1, timeout="5m")
def gpu_evaluation(log, go):
    tell(log, "start")
    wait_for(go)
    return {
        "devices": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        "cpus": os.environ.get("SLURM_CPUS_PER_TASK", ""),
        "libraries": [name for name in ("redis", "rq") if name in sys.modules],
        "node": os.environ.get("SLURMD_NODENAME", ""),
    }

@task(queue="evaluation", gpus=1, timeout="1m")
def gpu_score(checkpoint):
    return [Path(checkpoint).name, os.environ.get("CUDA_VISIBLE_DEVICES", "")]
"""
LANE = """
[lane]
partition = "cpu"
gpu_partition = "{partition}"
mem = "200M"
max_jobs = 4
group = 20
overflow_after = "1s"
"""


@pytest.fixture
def lane(site: Project, cluster: Cluster) -> Iterator[Project]:
    """The project with its tasks and its lane; Redis and the lane run, no worker does."""
    tasks = site.folder / "usertasks.py"
    tasks.write_text(tasks.read_text() + TASKS)
    site.configure(settings(cluster))
    site.cli("up", "redis", "lane")
    yield site
    print(log_of(site)[-6000:])


def settings(cluster: Cluster) -> str:
    """The site, and a lane on its cpu partition; GPU tasks go to the trainings' partition."""
    site = SITE.format(partition=cluster.partition, gpus=cluster.gpus_per_node)
    return site + LANE.format(partition=cluster.partition)


def log_of(project: Project) -> str:
    """What the lane said so far."""
    found = Path(project.env["XDG_STATE_HOME"]).glob("hpcpools/*/*/logs/lane.log")
    return "".join(path.read_text() for path in found)


def in_python(project: Project, code: str) -> str:
    """Run code as the user would, in the project's folder; what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project.folder,
        env=project.env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A Redis, nothing else."""
    lab = Lab(tmp_path)
    try:
        yield Desk(lab)
    finally:
        lab.stop()
