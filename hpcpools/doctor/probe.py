"""A job on a compute node, on request: does it start, see the runs, run our Python, and agree on the time?"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpcpools import atomic, interpreter
from hpcpools.config import Config
from hpcpools.doctor.finding import Finding, fail, ok, warn
from hpcpools.doctor.places import SKEW
from hpcpools.errors import HpcpoolsError
from hpcpools.runs.directory import secure_root
from hpcpools.slurm import submit as slurm
from hpcpools.slurm.command import Runner
from hpcpools.training import engine, submit

LOOK_EVERY = 0.5  # seconds between two looks for the answer; no Slurm command


def check(config: Config, patience: float) -> Iterator[Finding]:
    """Submit one small job and wait up to ``patience`` seconds for its answer. Raises what sbatch raises."""
    if engine.choose(config) == "local":
        yield ok("compute node", "no Slurm here, so there is none to ask")
        return
    runner = engine.runner(config)
    secure_root(config.root)
    folder = config.root / f".doctor-{secrets.token_hex(4)}"
    folder.mkdir(mode=0o700)
    try:
        yield from _ask(config, runner, folder, patience)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def script(config: Config, answer: Path) -> str:
    """One task for one minute in the training partition, not exclusive."""
    asked = config.training
    options = {"partition": asked.partition, "account": asked.account, "qos": asked.qos}
    lines = [f"#SBATCH --{name}={value}" for name, value in options.items() if value]
    command = shlex.join(interpreter.argv("hpcpools.doctor.node", str(answer)))
    head = ["#!/bin/bash", "#SBATCH --job-name=hp-doctor", "#SBATCH --time=1", "#SBATCH --ntasks=1"]
    return "\n".join([*head, f"#SBATCH --output={answer.parent}/log", *lines, *asked.setup, command]) + "\n"


def _ask(config: Config, runner: Runner, folder: Path, patience: float) -> Iterator[Finding]:
    answer, file = folder / "answer.json", folder / "probe.sbatch"
    file.write_text(script(config, answer))
    before = time.time()
    job = slurm.sbatch(runner, file, env=submit.job_env(config))
    give_up = time.monotonic() + patience
    while (facts := _read(answer)) is None and time.monotonic() < give_up:
        os.listdir(folder)  # makes NFS look again
        time.sleep(LOOK_EVERY)
    if facts is None:
        with contextlib.suppress(HpcpoolsError):
            slurm.scancel(runner, [job])
        text = f"job {job} gave no answer within {patience:.0f} s"
        fix = (
            "the partition may be full (try again with more --patience), or the nodes do not see this folder"
        )
        yield warn("compute node", text, fix)
        return
    yield from judge(facts, before, time.time())


def judge(facts: dict[str, Any], before: float, after: float) -> Iterator[Finding]:
    """Findings from the node's answer, which came between two times of this host. Pure."""
    node = facts["node"]
    if facts["uid"] != os.geteuid():
        text = f"{node} ran the job as uid {facts['uid']}, not {os.geteuid()}"
        yield fail("compute node", text, "ask the site: users must be the same on all nodes")
    else:
        yield ok("compute node", f"{node} sees the runs and runs Python {facts['python']}")
    ahead = max(facts["at"] - after, 0.0) + min(facts["at"] - before, 0.0)
    if abs(ahead) > SKEW:
        yield warn(
            "clock", f"{node} is at least {ahead:+.1f} s away from this host", "ask the site to run NTP"
        )


def _read(path: Path) -> dict[str, Any] | None:
    found = atomic.read_json(path)
    return found if isinstance(found, dict) else None
