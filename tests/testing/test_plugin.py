"""The fixture in a user's project: there by itself, cheap, and the whole way of a training."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpcpools.testing import FakeSlurm
from tests.conftest import state_home

PROJECT = """
[project]
modules = ["tasks"]

[training]
partition = "gpu"
time = "1m"
signal_lead = "10s"

[training.partitions.gpu]
gpus_per_node = 4

[slurm]
poll_interval = "1s"
lost_after = "1s"
provisional_for = "1s"
submit_lookups = [1, 1]
"""
TASKS = """
import json, time
from hpcpools import training

@training(launcher="single")
def learn(run, steps=3, lr=0.1, patient=False):
    # A patient one waits after its first checkpoint until it is told to stop.
    found = run.resume()
    first = found.step if found else 0
    for step in range(first + 1, steps + 1):
        with run.checkpoint(step) as folder:
            (folder / "state.json").write_text(json.dumps(step))
        while patient and not first and not run.should_stop:
            time.sleep(0.05)
        if run.should_stop:
            return None
    return {"first": first, "lr": lr}
"""
USERS_TESTS = """
import shutil
import subprocess

import pytest

from hpcpools.testing import Cluster, Node, Partition

ONE = Cluster(nodes=(Node("only", gpus=1),), partitions=(Partition("p", ("only",), default=True),))


@pytest.mark.fake_slurm(cluster=ONE, auto=True)
def test_mine(fake_slurm, tmp_path):
    assert shutil.which("sbatch").startswith(str(tmp_path))
    subprocess.run(["sbatch", "--wrap", "exit 5"], check=True)
    assert fake_slurm.wait(1).nodes == ("only",)
    subprocess.run(["sbatch", "--wrap", "sleep 1234.5"], check=True)
    fake_slurm.wait(2, "RUNNING")


def test_nothing_is_left():
    assert shutil.which("sbatch") is None or "fake-slurm" not in shutil.which("sbatch")
"""


def test_a_run_of_pytest_by_a_user(tmp_path: Path) -> None:
    """The marker is known, PATH is as before afterwards, and the job that was left running is gone."""
    (tmp_path / "test_mine.py").write_text(USERS_TESTS)
    words = [
        "-q",
        "--strict-markers",
        "-p",
        "hpcpools.testing.plugin",
        "-p",
        "no:cacheprovider",
        "test_mine.py",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    running = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not any(b"1234.5" in words for words in running)


def test_loading_the_plugin_costs_nothing() -> None:
    """It is loaded into every pytest run of an environment, whether it is used or not."""
    code = (
        "import sys, pytest; before = set(sys.modules); import hpcpools.testing.plugin;"
        "print(sorted(set(sys.modules) - before))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "['hpcpools', 'hpcpools.testing', 'hpcpools.testing.plugin']"


def cli(*words: str) -> str:
    """hpcpools in the project that is the working directory; what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "hpcpools", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's project, which is the working directory."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "hpcpools.toml").write_text(PROJECT)
    (folder / "tasks.py").write_text(TASKS)
    monkeypatch.chdir(folder)
    return folder


def test_a_training_from_its_submission_to_its_result(
    fake_slurm: FakeSlurm, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unchanged: train, explain, a preemption, resume in the same job, the result; a sweep; cancel."""
    with state_home() as state:
        monkeypatch.setenv("XDG_STATE_HOME", state)
        token = cli("train", "tasks:learn", "patient=true")
        assert "PENDING" in cli("explain", token)
        fake_slurm.start()
        checkpoints = project / "runs" / token / "checkpoints"
        while not list(checkpoints.glob("step-*/manifest.json")):
            fake_slurm.wait(1, "RUNNING")
            time.sleep(0.1)
        fake_slurm.preempt(1)
        fake_slurm.advance(60)
        assert fake_slurm.wait(1, "PENDING").restarts == 1
        fake_slurm.advance(120)
        cli("wait", token, "--timeout", "60s")
        assert '"first": 1' in cli("result", token)
        sweep = cli("sweep", "tasks:learn", "lr=0.1,0.2,0.3", "--max-parallel", "2")
        assert sweep
        array = fake_slurm.jobs()[-3:]
        number = array[0].id.partition("_")[0]
        assert [job.id for job in array] == [f"{number}_{index}" for index in range(3)]
        fake_slurm.start()
        assert [job.state for job in fake_slurm.jobs()[-3:]] == ["RUNNING", "RUNNING", "PENDING"]
        fake_slurm.auto = True
        for job in array:
            assert fake_slurm.wait(job.id).state == "COMPLETED"
        doomed = cli("train", "tasks:learn", "patient=true")
        cli("cancel", doomed)
        assert fake_slurm.wait(fake_slurm.jobs()[-1].id).state == "CANCELLED"
