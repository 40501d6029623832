"""The headline: short work while training holds every GPU node, through the services as `hpcpools up` starts.

From just before the call to the result in hand, `update_job_metrics` and an evaluation in turn; one more
training waits in Slurm's queue all the time, which shows that nothing was free.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hpcpools
from benchmarks import figures, machine, site
from hpcpools import config
from tests.cluster.cluster import Cluster

CALLS = 200
PAUSE = 0.02  # seconds between two calls
UPDATE, EVALUATE = "hpcpools.maintenance:update_job_metrics", "worktasks:evaluate"


def cli(folder: Path, *words: str) -> str:
    """What a command printed."""
    argv = [sys.executable, "-m", "hpcpools", *words]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise machine.PatienceError(f"{words}: exit {done.returncode}: {done.stderr[-1500:]}")
    return done.stdout


def measure(folder: Path, calls: int, waiting: str) -> dict[str, dict[str, float]]:
    """Milliseconds of both kinds of call."""
    settings = config.load(folder / "hpcpools.toml")
    arguments: dict[str, dict[str, Any]] = {
        UPDATE: {},
        EVALUATE: {"ckpt": str(folder / "worktasks.py")},
    }
    taken: dict[str, list[float]] = {name: [] for name in arguments}
    for number in range(calls + 3):
        for name, given in arguments.items():
            begin = time.perf_counter()
            hpcpools.enqueue(name, given, config=settings).result(60)
            if number >= 3:
                taken[name].append((time.perf_counter() - begin) * 1000)
            time.sleep(PAUSE)
    state = json.loads(cli(folder, "show", waiting, "--json"))["state"]
    if state != "PENDING":
        raise machine.PatienceError(f"the cluster was not full: the waiting training is {state}")
    return {
        name.partition(":")[2]: {
            "p50_ms": figures.quantile(values, 0.5),
            "p99_ms": figures.quantile(values, 0.99),
            "max_ms": max(values),
        }
        for name, values in taken.items()
    }


def run(folder: Path, lab: Cluster, calls: int) -> dict[str, dict[str, float]]:
    """Fill the GPU nodes with trainings, start the services, measure, end everything."""
    site.adopt(site.project(folder, lab))
    until = folder / "end"
    try:
        cli(folder, "up")
        held = [
            cli(folder, "train", "worktasks:hold", f"until={until}", f"number={number}").strip()
            for number in range(site.GPU_NODES + 1)
        ]

        def all_run() -> bool:
            return all('"state": "RUNNING"' in cli(folder, "show", run, "--json") for run in held[:-1])

        lab.wait(all_run, 90, "trainings on every GPU node")
        found = measure(folder, calls, held[-1])
        if not all_run():
            raise machine.PatienceError("a training that held a node has ended meanwhile")
        return found
    finally:
        until.touch()
        cli(folder, "down")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="benchmarks headline", description=__doc__)
    parser.add_argument("--calls", type=int, default=CALLS)
    options, _ = parser.parse_known_args(argv)
    with machine.folder() as folder, site.cluster() as lab:
        found = run(folder / "p", lab, options.calls)
    for name, values in found.items():
        print(f"{name:20}", *(f"{key} {value:8.2f}" for key, value in values.items()))
    figures.save("headline", {"calls": found}, number=options.calls, smoke=options.calls < CALLS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
