"""Submitting N trainings to a live Slurm: hpcpools, plain submitit and bare sbatch, in shuffled order.

All GPU nodes are held meanwhile, so nothing starts and only submission is measured. A shim before sbatch on
the PATH counts its calls, except `sbatch --version`, which asks no controller.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import figures, machine, site
from tests.cluster.cluster import Cluster

BASE = "sbatch, once each"
RUNS = 15  # below the 20 that hpcpools sends without a pause
SHIM = '#!/bin/sh\n[ "$1" = --version ] || echo x >>"{count}"\nexec {sbatch} "$@"\n'
IN_PROCESS = {"hpcpools train, once each": "train", "submitit submit": "submit", "submitit batch": "batch"}


def bare(options: list[str]) -> list[str]:
    """sbatch as one would type it for such a job."""
    job = ["-p", "gpu", "--exclusive", "-t", "30", "-o", "/dev/null", "--wrap", "sleep 60"]
    return ["sbatch", *options, *job]


def inside(way: str, number: int) -> float:
    """Seconds for ``number`` submissions from this process, imports not counted."""
    if way == "train":
        import hpcpools

        hpcpools.train  # noqa: B018  (import what it needs before the clock starts)
        begin = time.perf_counter()
        for each in range(number):
            hpcpools.train("worktasks:hold", until="/nonexistent", number=each)
        return time.perf_counter() - begin
    import submitit

    executor = submitit.SlurmExecutor(folder="logs")
    executor.update_parameters(partition="gpu", time=30, exclusive=True, wckey=None)
    begin = time.perf_counter()
    if way == "submit":
        for _ in range(number):
            executor.submit(time.sleep, 60)
    else:
        with executor.batch():
            for _ in range(number):
                executor.submit(time.sleep, 60)
    return time.perf_counter() - begin


def ways(number: int) -> dict[str, list[list[str]]]:
    """Name → the commands of one way to submit ``number`` jobs."""
    grid = f"number=0..{number - 1}"
    sweep = [sys.executable, "-m", "hpcpools", "sweep", "worktasks:hold", "until=/nonexistent", grid]
    return {
        BASE: [bare([]) for _ in range(number)],
        "sbatch --array": [bare([f"--array=0-{number - 1}"])],
        "hpcpools sweep": [sweep],
        **{
            name: [[sys.executable, "-m", "benchmarks.submit", "--inside", way, "--runs", str(number)]]
            for name, way in IN_PROCESS.items()
        },
    }


def take(commands: list[list[str]], number: int, folder: Path, lab: Cluster) -> dict[str, float]:
    """One way, once, in a project of its own: hpcpools remembers how often it has submitted lately."""
    env = site.project(folder, lab)
    shims, count = folder / "bin", folder / "count"
    shims.mkdir()
    (shims / "sbatch").write_text(SHIM.format(count=count, sbatch=shutil.which("sbatch")))
    (shims / "sbatch").chmod(0o700)
    env["PATH"] = f"{shims}:{env['PATH']}"
    said = ""
    begin = time.perf_counter()
    for argv in commands:
        done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False)
        said = done.stdout
        if done.returncode:
            raise machine.PatienceError(f"{argv}: exit {done.returncode}: {done.stderr[-1500:]}")
    whole = time.perf_counter() - begin
    calls = len(count.read_text().splitlines())
    inner: dict[str, Any] = json.loads(said) if said.startswith("{") else {}
    return {
        "ms_per_run": inner.get("seconds", whole) / number * 1000,
        "seconds": whole,
        "sbatch_calls": calls,
    }


def hold_all(lab: Cluster) -> frozenset[str]:
    """Occupy every GPU node; the jobs that do."""
    for _ in range(site.GPU_NODES):
        lab.run("sbatch", "-p", "gpu", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 3000")

    def all_run() -> bool:
        return list(lab.jobs().values()).count("RUNNING") >= site.GPU_NODES

    lab.wait(all_run, 60, "all GPU nodes are held")
    return frozenset(lab.jobs())


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="benchmarks submit", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options, _ = parser.parse_known_args(argv)
    number = min(options.runs, RUNS)
    if options.inside:
        print(json.dumps({"seconds": inside(options.inside, number)}))
        return 0
    rounds: list[dict[str, dict[str, float]]] = []
    with site.cluster() as lab, machine.folder() as folder:
        held = hold_all(lab)
        named = ways(number)
        for each in range(options.rounds):
            taken = {
                name: take(named[name], number, folder / f"{each}-{place}", lab)
                for place, name in enumerate(random.sample(list(named), len(named)))
            }
            rounds.append({name: taken[name] for name in named})
            lab.cancel_all(keep=held)
    print(f"{number} runs")
    print(figures.table(rounds, BASE, ["ms_per_run", "seconds", "sbatch_calls"]))
    result = {"ways": figures.summary(rounds, BASE)}
    figures.save("submit", result, runs=number, rounds=options.rounds, smoke=options.rounds < 3)
    return 0


if __name__ == "__main__":
    sys.exit(main())
