"""services.sbatch, with Slurm's commands played by scripts: when they fail, and at each signal."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcpools.templates.script import Script

TEMPLATE = Path(__file__).parents[2] / "sbatch_templates" / "services.sbatch"
PROGRAMS = {
    "sleep": "",
    "squeue": "test -e queued && echo 8; exit 0",
    "sbatch": "echo $1 >>sent; test $(wc -l <sent) -gt $FAILURES && touch queued",
    "services": "trap 'echo orderly >>ended; exit' TERM\ntouch started\nuntil read -t 1 <>fifo; do :; done",
    "hpcpools": '[ $1 = up ] && exec services\necho "$@" >>stopped',
}


class Job:
    """The script as Slurm would start it, on node ``a``."""

    def __init__(self, folder: Path, failures: int = 0) -> None:
        self.folder = folder
        os.mkfifo(folder / "fifo")
        for name, body in PROGRAMS.items():
            self.program(name, body)
        script = folder / "slurm_script"
        script.write_text(Script(TEMPLATE.read_text()).render({"command": "hpcpools up --foreground short"}))
        facts = {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "a", "SLURM_JOB_NAME": "pool"}
        self.env = {"PATH": f"{folder}:{os.environ['PATH']}", "FAILURES": str(failures), **facts}
        self.argv = ["bash", str(script)]

    def program(self, name: str, body: str) -> None:
        """Put a program on the job's PATH."""
        (self.folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (self.folder / name).chmod(0o755)

    def start(self) -> subprocess.Popen[bytes]:
        """Start it and wait until the services run."""
        process = subprocess.Popen(self.argv, cwd=self.folder, env=self.env, stdout=subprocess.PIPE)
        self.until((self.folder / "started").exists)
        return process

    def until(self, found: Callable[[], bool]) -> None:
        """Wait for a condition."""
        deadline = time.monotonic() + 20
        while not found():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def lines(self, name: str) -> list[str]:
        """What a program noted."""
        path = self.folder / name
        return path.read_text().split("\n")[:-1] if path.exists() else []


@pytest.mark.parametrize("failures", [0, 3])
def test_one_successor_then_an_end_in_order(tmp_path: Path, failures: int) -> None:
    """However often sbatch fails before; a second warning changes nothing."""
    job = Job(tmp_path, failures)
    process = job.start()
    process.send_signal(signal.SIGUSR1)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == 0
    assert job.lines("sent") == ["--nodelist=a"] * (failures + 1)
    assert job.lines("stopped") == ["down --drain --timeout 3m"]  # which does nothing here
    assert job.lines("ended") == ["orderly"]


def test_an_sbatch_that_fails_but_queued_is_not_repeated(tmp_path: Path) -> None:
    """The queue is asked before another try."""
    job = Job(tmp_path)
    job.program("sbatch", "echo $1 >>sent; touch queued; exit 1")
    process = job.start()
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == 0
    assert len(job.lines("sent")) == 1


def test_scancel_leaves_no_successor(tmp_path: Path) -> None:
    """TERM ends the services in order."""
    job = Job(tmp_path)
    process = job.start()
    process.terminate()
    assert process.wait(20) == 0
    assert (job.lines("sent"), job.lines("ended")) == ([], ["orderly"])


def test_term_during_the_hand_over(tmp_path: Path) -> None:
    """Slurm gives no answer until the limit is there: TERM still ends the services in order."""
    job = Job(tmp_path, failures=10**6)
    process = job.start()
    process.send_signal(signal.SIGUSR1)
    job.until(lambda: len(job.lines("sent")) > 1)
    process.terminate()
    process.communicate(timeout=20)  # until nobody holds its output: nothing goes on trying
    assert (process.returncode, job.lines("ended")) == (0, ["orderly"])


def test_services_that_fail_end_the_job_with_their_code(tmp_path: Path) -> None:
    """Nothing is submitted again: a wrong configuration must not go in circles."""
    job = Job(tmp_path)
    job.program("services", "touch started; exit 78")
    assert job.start().wait(20) == 78
    assert job.lines("sent") == []


def test_another_node_sends_it_home(tmp_path: Path) -> None:
    """The data are on the node that was first: services.node."""
    job = Job(tmp_path)
    process = job.start()
    process.terminate()
    assert process.wait(20) == 0
    assert (tmp_path / "services.node").readlink() == Path("a")
    (tmp_path / "started").unlink()
    done = subprocess.run(
        job.argv, cwd=tmp_path, env={**job.env, "SLURMD_NODENAME": "b"}, timeout=20, check=False
    )
    assert done.returncode == 0
    assert job.lines("sent") == ["--nodelist=a"]
    assert not (tmp_path / "started").exists()
