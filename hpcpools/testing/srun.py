"""The fake's srun inside a job: one step, its tasks each in a session of its own, and how they ended.

Refuses to start a job of its own. It outlives the signals that end a job: it tells how its step ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from typing import IO

from hpcpools.errors import HpcpoolsError
from hpcpools.testing import processes
from hpcpools.testing.ends import finish_step
from hpcpools.testing.placement import per_node
from hpcpools.testing.runner import open_log
from hpcpools.testing.words import parse
from hpcpools.testing.world import Job, Step, Store, World
from hpcpools.training import nodeenv

_VALUED = {
    "cpus-per-task": "c", "error": "e", "kill-on-bad-exit": "", "mem": "", "nodes": "N", "ntasks": "n",
    "ntasks-per-node": "", "output": "o", "wait": "W",
}  # fmt: skip
_FLAGS = {"exact": "", "overlap": "", "unbuffered": "u"}
_OUTSIDE = "the fake Slurm's srun only works inside a batch job"


def main(store: Store, words: list[str]) -> int:
    """One step; the exit code of its worst task."""
    number = nodeenv.variable("SLURM_JOB_ID")
    if number is None:
        print(f"srun: error: {_OUTSIDE}", file=sys.stderr)
        return 1
    words = [f"{word}=1" if word == "--kill-on-bad-exit" else word for word in words]
    at = _command_at(words)
    try:
        asked, _ = parse(words[:at], _VALUED, _FLAGS)
    except HpcpoolsError as error:
        print(f"srun: {error.message}\nsrun: {error.hint}", file=sys.stderr)
        return 255
    for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT):
        signal.signal(ignored, lambda *_: None)  # a handler, not SIG_IGN: that our tasks would inherit
    with store.change() as world:
        job = next((job for job in world.jobs if str(job.id) == number), None)
        if job is None or job.state != "RUNNING":
            print(
                "srun: error: Unable to create step: Job/step already completing or completed",
                file=sys.stderr,
            )
            return 1
        name = str(sum(step.name != "batch" for step in job.steps))
        try:
            tasks = _start(world, job, name, asked, words[at:])
        except OSError as error:
            print(f"srun: error: {words[at:][:1]}: {error.strerror}", file=sys.stderr)
            return 2
    statuses = _statuses(tasks, kill=asked.get("kill-on-bad-exit", "0") != "0")
    return _told(store, job, name, statuses)


def _command_at(words: list[str]) -> int:
    """Where the program begins: the first word that is neither an option nor an option's value."""
    at = 0
    while at < len(words) and words[at].startswith("-"):
        name = words[at].lstrip("-")
        bare = name in _VALUED or (not words[at].startswith("--") and name in _VALUED.values())
        at += 2 if bare else 1
    return at


def _start(
    world: World, job: Job, name: str, asked: Mapping[str, str], command: list[str]
) -> list[subprocess.Popen[bytes]]:
    """All tasks; told to the world before the lock is free, so that no signal misses them."""
    count = int(asked.get("ntasks", 0)) or int(asked.get("nodes", 0)) or job.spec.tasks
    tasks = []
    step = Step(name, command[0].rpartition("/")[2] if command else "", world.now)
    job.steps.append(step)
    with ExitStack() as logs:
        for task in range(count):
            out, err = _logs(logs, job, asked, task)
            tasks.append(
                subprocess.Popen(
                    command,
                    env=_environment(job, name, task, count),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
            )
            step.pids.append(processes.identity(tasks[-1].pid))
    return tasks


def _logs(
    logs: ExitStack, job: Job, asked: Mapping[str, str], task: int
) -> tuple[IO[bytes] | None, IO[bytes] | None]:
    mode = "ab" if job.spec.append or task else "wb"
    out = logs.enter_context(open_log(job, asked["output"], mode, task)) if "output" in asked else None
    err = logs.enter_context(open_log(job, asked["error"], mode, task)) if "error" in asked else out
    return out, err


def _environment(job: Job, name: str, task: int, count: int) -> dict[str, str]:
    """Of one task, with what it inherits: srun(1), OUTPUT ENVIRONMENT VARIABLES."""
    here = per_node(job.spec) if count == job.spec.tasks else max(1, count // len(job.nodes))
    at = min(task // here, len(job.nodes) - 1)
    node = job.nodes[at]
    found = {
        "SLURMD_NODENAME": node,
        "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1",
        "SLURM_LOCALID": str(task - at * here),
        "SLURM_NODEID": str(at),
        "SLURM_NTASKS": str(count),
        "SLURM_PROCID": str(task),
        "SLURM_STEP_ID": name,
        "SLURM_STEPID": name,
    }
    # A step gets the GPUs that were asked for, not all that an exclusive job holds.
    gpus = job.gpus.get(node, [])[: job.spec.gpus]
    if gpus:
        found |= {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus)), "SLURM_GPUS_ON_NODE": str(len(gpus))}
    env = nodeenv.child_environment(**found)
    if not gpus:
        env.pop("CUDA_VISIBLE_DEVICES", None)
    return env


def _statuses(tasks: list[subprocess.Popen[bytes]], *, kill: bool) -> list[int]:
    """The raw wait statuses of all tasks; with ``kill`` the first bad one ends the others."""
    found: dict[int, int] = {}
    while len(found) < len(tasks):
        pid, status = os.wait()
        found[pid] = status
        if status and kill:
            left = (processes.identity(task.pid) for task in tasks if task.pid not in found)
            processes.signal_all(processes.members(left), signal.SIGKILL)
    return [found[task.pid] for task in tasks]


def _told(store: Store, job: Job, name: str, statuses: list[int]) -> int:
    """How the step ended, told to the world and in srun's words; its exit code."""
    worst = max(statuses, key=lambda status: (status & 0x7F, status))
    with store.change() as world:
        mine = next((each for each in world.jobs if each.id == job.id and each.runner == job.runner), None)
        step = next((step for step in mine.steps if step.name == name), None) if mine else None
        out_of_memory = bool(mine and mine.out_of_memory)
        if step is not None:
            finish_step(step, worst, world.now)
            if out_of_memory:
                step.state, step.code, step.signal = "OUT_OF_MEMORY", 0, 125
    for number, status in enumerate(statuses):
        _tell(job, number, status, out_of_memory)
    if out_of_memory:
        return 1
    return 128 + (worst & 0x7F) if worst & 0x7F else worst >> 8


def _tell(job: Job, task: int, status: int, out_of_memory: bool) -> None:
    """srun's own words for a task that did not end well."""
    node = job.nodes[min(task // per_node(job.spec), len(job.nodes) - 1)]
    if out_of_memory:
        print(f"srun: error: {node}: task {task}: Out Of Memory", file=sys.stderr)
    elif status & 0x7F:
        print(f"srun: error: {node}: task {task}: {signal.strsignal(status & 0x7F)}", file=sys.stderr)
    elif status:
        print(f"srun: error: {node}: task {task}: Exited with exit code {status >> 8}", file=sys.stderr)
