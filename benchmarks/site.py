"""The project's Slurm lab as a benchmark's site, and a user's project on it.

Brings the lab up if it is down, and then down again; one that runs already is used and left.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from benchmarks import machine
from tests.cluster.cluster import Cluster
from tests.cluster.lab import Lab
from tests.cluster.layout import VARIANTS

GPU_NODES = 3  # of the lab's partition ``gpu``
CONFIG = """
[project]
modules = ["worktasks"]
[training]
partition = "gpu"
time = "30m"
signal_lead = "10s"
[training.partitions.gpu]
gpus_per_node = 4
max_time = "1-00:00:00"
"""
TASKS = '''
import time
from pathlib import Path
from hpcpools import task, training

@training(time="30m", launcher="single")
def hold(run, until, number=0):
    """Keeps its node until a file is there."""
    step = 0
    while not Path(until).exists() and not run.should_stop:
        step += 1
        run.log(step=step, loss=1.0 / step)
        time.sleep(0.5)

@task(queue="evaluation", timeout="1m")
def evaluate(ckpt):
    """Reads a file and returns a number, as a small evaluation does."""
    return {"size": len(Path(ckpt).read_bytes())}
'''


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """The lab with accounting: three nodes of four GPUs, and one without."""
    lab = Lab(VARIANTS["accounting"])
    started = lab.up()
    found = Cluster(lab)
    before = frozenset(found.jobs())
    try:
        yield found
    finally:
        found.cancel_all(keep=before)
        if started:
            lab.down()


def project(folder: Path, site: Cluster) -> dict[str, str]:
    """Write a user's project; the environment in which its commands run."""
    folder.mkdir(mode=0o700)
    (folder / "hpcpools.toml").write_text(CONFIG)
    (folder / "worktasks.py").write_text(TASKS)
    state = folder / "s"
    state.mkdir(mode=0o700)
    return machine.environment(**site.env, XDG_STATE_HOME=str(state))


def adopt(env: dict[str, str]) -> None:
    """Make that environment this process's own, so that `import hpcpools` works as it would for the user."""
    os.environ.clear()
    os.environ.update(env)
