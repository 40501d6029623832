"""Signals: the handler sets a flag, in the registered process only, whatever is forked from it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

TRAINING = """
import os, sys, time
from pathlib import Path
import torch
from torch.utils.data import DataLoader, TensorDataset
from hpcpools.training.context import Run

run = Run(Path(sys.argv[1]), Path(sys.argv[1]))
run.heed_signals()
loader = DataLoader(TensorDataset(torch.arange(100_000)), batch_size=2, num_workers=8)
saves = 0
for step, (batch,) in enumerate(loader, start=1):
    if step == 5:
        print("training", flush=True)
    time.sleep(0.01)
    if run.should_stop:
        saves += 1
        with run.checkpoint(step) as folder:
            (folder / "x").write_text(str(int(batch[0])))
        break
del loader
print("saved", saves, "at", step, flush=True)
"""


def test_eight_loader_workers_and_one_save(tmp_path: Path) -> None:
    """USR2 to the whole process group, as some process trackers send it, and TERM to the task: one save.

    TERM to all kills torch's loader workers (their own C handler), which no Python code can prevent; the
    periodic checkpoint covers that.
    """
    (tmp_path / "checkpoints").mkdir()
    training = subprocess.Popen(
        [sys.executable, "-c", TRAINING, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert training.stdout is not None
    assert training.stdout.readline() == "training\n"
    os.killpg(training.pid, signal.SIGUSR2)
    os.kill(training.pid, signal.SIGTERM)
    out, errors = training.communicate(timeout=60)
    assert training.returncode == 0, errors
    assert out.startswith("saved 1 at ")
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_an_error_after_the_warning_is_no_user_error(tmp_path: Path) -> None:
    """A loader that died of the same signal makes the training raise: stopped, and resumable."""
    code = """
import os, signal, sys
from pathlib import Path
from hpcpools.runs.request import Request, Resources
from hpcpools.training.context import Run
from hpcpools.training.launch import in_process

def training(run):
    os.kill(os.getpid(), signal.SIGUSR2)
    raise RuntimeError("DataLoader worker is killed by signal: Terminated")

sys.modules["mine"] = sys.modules["__main__"]
request = Request("hp-x", 0.0, "slurm", Resources(), target="mine:training")
ending = in_process(request, Run(Path(sys.argv[1]), Path(sys.argv[1])))
print(ending.outcome, ending.exit_code, signal.Signals(ending.signal).name, ending.cause.value)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "stopped 75 SIGUSR2 stopped by a signal\n", done.stderr


def test_a_script_that_asks_for_its_run_is_warned(tmp_path: Path) -> None:
    """current_run() makes TERM set should_stop; a handler of the script's own stays."""
    code = """
import os, signal, sys
import hpcpools
if len(sys.argv) > 1:
    signal.signal(signal.SIGTERM, lambda *_: print("own"))
run = hpcpools.current_run()
os.kill(os.getpid(), signal.SIGTERM)
print(run.should_stop)
"""
    env = {**os.environ, "HPCPOOLS_RUN_DIR": str(tmp_path), "HPCPOOLS_ATTEMPT_DIR": str(tmp_path)}
    for words, said in (([], "True\n"), (["own"], "own\nFalse\n")):
        done = subprocess.run(
            [sys.executable, "-c", code, *words], env=env, capture_output=True, text=True, check=False
        )
        assert done.stdout == said, done.stderr
