"""A user's project in a temporary folder, driven through the real command line as a subprocess."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

TASKS = '''
import json, os, signal, sys, time
from pathlib import Path
from hpcpools import task, training

def wait_for(path):
    while not Path(path).exists():
        time.sleep(0.05)

@task(queue="evaluation", timeout="1m")
def evaluate(ckpt="none"):
    return {"ckpt": ckpt}

@task(timeout="1m")
def broken():
    raise ValueError("a broken task")

@training(gpus=None, time="5m", launcher="single")
def see(run):
    """What the process on the node sees."""
    return {
        "devices": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        "cpus": len(os.sched_getaffinity(0)),
        "env": {k: v for k, v in os.environ.items() if k.startswith(("SLURM_", "SRUN_", "HPCPOOLS_"))},
        "torch": [os.environ.get(k) for k in ("MASTER_ADDR", "RANK", "WORLD_SIZE", "LOCAL_RANK")],
        "secret": [k for k in os.environ if "CANARY" in k],
        "redis": "redis" in sys.modules,
    }

@training(time="5m", launcher="single")
def learn(run, steps=3, lr=0.1):
    first = (found.step if (found := run.resume()) else 0) + 1
    for step in range(first, steps + 1):
        run.log(step=step, total=steps, loss=1.0 / step)
        with run.checkpoint(step, loss=1.0 / step) as folder:
            (folder / "state.json").write_text(json.dumps({"step": step}))
        if run.should_stop:
            return None
    return {"first": first, "steps": steps, "lr": lr}

@training(time="5m", launcher="single")
def hold(run, until, mark=""):
    """Runs until the file is there; leaves its own mark."""
    if mark:
        with open(mark, "a") as file:
            file.write(f"{os.getpid()} start {time.time()}\\n")
    print("holding", flush=True)
    run.log(step=1)
    while not Path(until).exists() and not run.should_stop:
        time.sleep(0.05)
    if mark:
        with open(mark, "a") as file:
            file.write(f"{os.getpid()} end {time.time()}\\n")
    return "released"

@training(time="5m", launcher="single")
def deaf(run, until):
    """Ignores every warning."""
    print("deaf", flush=True)
    wait_for(until)

@training(time="5m", launcher="single")
def slow(run, steps, pace=0.5, save=True, crash_at=0):
    """Counts steps; saves each; resumes; leaves when told to."""
    found = run.resume()
    step = found.step if found else 0
    print("resumed at", step, flush=True)
    while step < steps:
        time.sleep(pace)
        step += 1
        run.log(step=step, total=steps)
        if save:
            with run.checkpoint(step) as folder:
                (folder / "x").write_text(str(step))
        if step == crash_at:
            raise RuntimeError(f"crash at {step}")
        if run.should_stop:
            return None
    return step

@training(time="5m", launcher="single")
def chaotic(run, steps, log, pace=0.2):
    """Counts and saves; tells an outside log which process did which step when."""
    def tell(what):
        line = f"{run.token} {os.getpid()} {what} {time.time():.3f}\\n".encode()
        with open(log, "ab", buffering=0) as file:
            file.write(line)
    found = run.resume()
    step = found.step if found else 0
    tell(f"start {step}")
    while step < steps:
        time.sleep(pace)
        step += 1
        tell(f"step {step}")
        run.log(step=step, total=steps)
        with run.checkpoint(step) as folder:
            (folder / "x").write_text(str(step))
        if run.should_stop:
            tell(f"stop {step}")
            return None
    tell(f"done {step}")
    return step

@training(time="5m", launcher="single")
def hungry(run, batch):
    if batch > 10:
        raise MemoryError(f"batch {batch}")
    return batch

@training(time="5m", launcher="single")
def fail(run):
    print("about to fail", flush=True)
    raise RuntimeError("the loss is made of cheese")

@training(gpus=2, time="5m")
def ranks(run):
    """One process per GPU, and they can talk."""
    import torch.distributed as dist
    dist.init_process_group("gloo")
    found = [None] * dist.get_world_size()
    dist.all_gather_object(found, [run.rank, run.local_rank, os.environ["MASTER_ADDR"] != ""])
    run.log(step=1, loss=0.5)
    with run.checkpoint(1) as folder:
        (folder / "rank.txt").write_text(str(run.rank))
    dist.destroy_process_group()
    return found
'''


class Project:
    """``cli()`` runs hpcpools there; ``close()`` ends whatever the test left running."""

    def __init__(self, folder: Path, env: Mapping[str, str], settings: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.root = folder / "runs"
        self.env = {**os.environ, **env, "NO_COLOR": "1"}
        (folder / "usertasks.py").write_text(TASKS)
        self.configure(settings)

    def configure(self, settings: str = "") -> None:
        """Write hpcpools.toml: the module, and ``settings`` as more TOML."""
        text = '[project]\nmodules = ["usertasks"]\n\n' + settings
        (self.folder / "hpcpools.toml").write_text(text)

    def cli(
        self, *words: object, check: bool = True, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command; with ``check`` a non-zero exit fails the test with everything it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "hpcpools", *map(str, words)],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{words} → {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def attempt(self, token: str, number: int = 1) -> dict[str, Any]:
        """One attempt's facts."""
        found: dict[str, Any] = self.json("show", token)["attempts"][number - 1]
        return found

    def start(self, *words: object) -> subprocess.Popen[str]:
        """Run a command in the background."""
        return subprocess.Popen(
            [sys.executable, "-m", "hpcpools", *map(str, words)],
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    def json(self, *words: object) -> Any:
        """The JSON that a command prints."""
        return json.loads(self.cli(*words, "--json").stdout)

    def train(self, *words: object) -> str:
        """Submit; the token."""
        return self.cli("train", *words).stdout.strip()

    def state(self, token: str) -> str:
        """A run's state."""
        return str(self.json("show", token)["state"])

    def until(self, found: Callable[[], Any], what: str, timeout: float = 60) -> Any:
        """Wait for a condition; on timeout show the status."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if value := found():
                return value
            time.sleep(0.1)
        raise AssertionError(f"never: {what}\n{self.cli('status', check=False).stdout}")

    def until_state(self, token: str, *states: str, timeout: float = 60) -> str:
        """Wait until a run is in one of ``states``."""
        state: str = self.until(
            lambda: next((s for s in [self.state(token)] if s in states), None),
            f"{token} in {states}",
            timeout,
        )
        return state

    def close(self) -> None:
        """Cancel what is live, then stop the services."""
        live = self.root / ".live"
        tokens = [path.name for path in live.iterdir()] if live.is_dir() else []
        if tokens:
            self.cli("cancel", *tokens, check=False)
            self.cli("wait", *tokens, "--timeout", "30s", check=False)
        self.configure()  # a test may have left a broken one, with which nothing can be stopped
        self.cli("down")
