"""The node of one job: starts its batch script, waits for the last of its processes, tells the end.

``python -m hpcpools.testing.runner FOLDER ID``, started with the lock held by whoever starts the job. What it
does is what slurmd and slurmstepd do; orphans of the job become its children, so none escapes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from hpcpools.account import user
from hpcpools.short import process
from hpcpools.testing import ends, processes, scheduling
from hpcpools.testing.cluster import hostlist
from hpcpools.testing.placement import per_node
from hpcpools.testing.world import Job, Step, Store, World

NO_LOG = 53  # the "signal" by which Slurm says that a log could not be opened


def main(folder: Path, number: int) -> None:
    """One attempt, from its start to its end."""
    process.adopt_orphans()
    store, me = Store(folder), processes.identity(os.getpid())
    child: subprocess.Popen[bytes] | None = None
    status = NO_LOG
    with store.change() as world:
        job = next(job for job in world.jobs if job.id == number)
        if job.runner == me and job.state == "RUNNING" and not job.completing:
            child = _start(store, world, job)
    if child is not None:
        status = os.waitpid(child.pid, 0)[1]
    while _ending(store, number) and process.has_children():
        time.sleep(0.02)  # what is left has KillWait to end by itself
    process.end_children()
    with store.change() as world:
        for job in (job for job in world.jobs if job.id == number and job.runner == me):
            ends.over(world, job, status)
            if world.auto:
                scheduling.schedule(world, folder)


def _ending(store: Store, number: int) -> bool:
    """Whether Slurm ends the job; where the script itself has ended, the rest has no time left."""
    return any(job.completing for job in store.read().jobs if job.id == number)


def _start(store: Store, world: World, job: Job) -> subprocess.Popen[bytes] | None:
    """The batch script in a session of its own; None if its logs or folder cannot be opened."""
    place, spec = store.job_folder(job), job.spec
    kept = msgspec.json.decode((place / "environment.json").read_bytes(), type=dict[str, str])
    env = {**kept, **environment(world, job)}
    script = place / "slurm_script"
    mode = "ab" if spec.append else "wb"
    try:
        with ExitStack() as logs:
            out = logs.enter_context(open_log(job, spec.output, mode))
            err = logs.enter_context(open_log(job, spec.error, mode)) if spec.error else out
            child = subprocess.Popen(
                [str(script), *spec.arguments],
                cwd=spec.folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
    except OSError as error:
        print(f"job {job.shown_id} could not be launched: {error.strerror}", file=sys.stderr)
        return None
    job.steps = [Step("batch", "batch", world.now, [processes.identity(child.pid)])]
    return child


def open_log(job: Job, pattern: str, mode: str, task: int = 0) -> BinaryIO:
    """A log of the job by Slurm's pattern, in its folder."""
    return cast("BinaryIO", (Path(job.spec.folder) / log_name(pattern, job, task)).open(mode))


def log_name(pattern: str, job: Job, task: int = 0) -> str:
    """sbatch(1), filename pattern: %j %J %A %a %x %N %n %t %u %%."""
    values = {
        "j": str(job.id), "J": str(job.id), "A": str(job.array or job.id),
        "a": "4294967294" if job.index is None else str(job.index), "x": job.spec.name,
        "N": job.nodes[min(task // per_node(job.spec), len(job.nodes) - 1)], "n": "0", "s": "batch",
        "t": str(task), "u": user(), "%": "%",
    }  # fmt: skip
    return re.sub(r"%(\d*)([A-Za-z%])", lambda found: _padded(found, values), pattern)


def _padded(found: re.Match[str], values: Mapping[str, str]) -> str:
    """``%4j`` is ``0007``; a letter that Slurm does not know stays as it is."""
    return values.get(found[2], found[0]).zfill(int(found[1] or 0))


def environment(world: World, job: Job) -> dict[str, str]:
    """sbatch(1), OUTPUT ENVIRONMENT VARIABLES, as 22.05 sets them, for the script on the first node."""
    spec, first = job.spec, job.nodes[0]
    cpus = next(node.cpus for node in world.cluster.nodes if node.name == first)
    on_node = cpus if spec.exclusive else per_node(spec) * spec.cpus_per_task
    gpus = ",".join(map(str, job.gpus.get(first, ())))
    names = hostlist(job.nodes)
    found = {
        "ENVIRONMENT": "BATCH",
        "HOSTNAME": first,
        "SLURMD_NODENAME": first,
        "SLURM_CLUSTER_NAME": world.cluster.name,
        "SLURM_CPUS_ON_NODE": str(on_node),
        "SLURM_JOBID": str(job.id),
        "SLURM_JOB_CPUS_PER_NODE": _each(on_node, len(job.nodes)),
        "SLURM_JOB_ID": str(job.id),
        "SLURM_JOB_NAME": spec.name,
        "SLURM_JOB_NODELIST": names,
        "SLURM_JOB_NUM_NODES": str(len(job.nodes)),
        "SLURM_JOB_PARTITION": spec.partition,
        "SLURM_JOB_QOS": spec.qos,
        "SLURM_LOCALID": "0",
        "SLURM_NNODES": str(len(job.nodes)),
        "SLURM_NODEID": "0",
        "SLURM_NODELIST": names,
        "SLURM_NPROCS": str(spec.tasks),
        "SLURM_NTASKS": str(spec.tasks),
        "SLURM_PROCID": "0",
        "SLURM_SUBMIT_DIR": spec.folder,
        "SLURM_TASKS_PER_NODE": _each(per_node(spec), len(job.nodes)),
    }
    if gpus or spec.gpus:
        found |= {"CUDA_VISIBLE_DEVICES": gpus, "SLURM_JOB_GPUS": gpus}
        found["SLURM_GPUS_ON_NODE"] = str(len(job.gpus.get(first, ())))
    if spec.gpus:
        found["SLURM_GPUS_PER_NODE"] = str(spec.gpus)
    if spec.tasks_per_node:
        found["SLURM_NTASKS_PER_NODE"] = str(spec.tasks_per_node)
    if spec.cpus_per_task > 1:
        found["SLURM_CPUS_PER_TASK"] = str(spec.cpus_per_task)
    if spec.append:
        found["SLURM_OPEN_MODE"] = "a"
    if job.restarts:
        found["SLURM_RESTART_COUNT"] = str(job.restarts)
    return {**found, **_array(world, job)}


def _array(world: World, job: Job) -> Mapping[str, str]:
    if job.index is None:
        return {}
    all_of_it = [
        each.index
        for each in (*world.jobs, *world.past)
        if each.array == job.array and each.index is not None
    ]
    return {
        "SLURM_ARRAY_JOB_ID": str(job.array),
        "SLURM_ARRAY_TASK_COUNT": str(len(set(all_of_it))),
        "SLURM_ARRAY_TASK_ID": str(job.index),
        "SLURM_ARRAY_TASK_MAX": str(max(all_of_it)),
        "SLURM_ARRAY_TASK_MIN": str(min(all_of_it)),
        "SLURM_ARRAY_TASK_STEP": "1",
    }


def _each(number: int, nodes: int) -> str:
    return f"{number}(x{nodes})" if nodes > 1 else str(number)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
