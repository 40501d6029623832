"""The environment of a compute node: the only reader of it there, and what a run's processes are given.

Source of the names: sbatch(1) OUTPUT ENVIRONMENT VARIABLES, srun(1), torchrun's documentation.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from hpcpools.errors import UsageError
from hpcpools.runs.attempts import Place

RUN_DIR = "HPCPOOLS_RUN_DIR"
ATTEMPT_DIR = "HPCPOOLS_ATTEMPT_DIR"
STOP_FILE = "HPCPOOLS_STOP_FILE"
_CACHES = ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
_GPU = re.compile(r"[0-9]{1,4}|(GPU|MIG)-[A-Za-z0-9/-]{1,80}")


def place(env: Mapping[str, str] = os.environ) -> Place:
    """Who we are: the Slurm job's id and restart count, or the local executor's job.

    Raises UsageError when neither is there: this module runs only inside a job.
    """
    pid = os.getpid()
    common = {"pid": pid, "pid_start": process_start(pid), "boot": boot_id()}
    if job_id := env.get("SLURM_JOB_ID"):
        return Place(
            cluster=env.get("SLURM_CLUSTER_NAME", ""),
            job_id=_array_id(env) or job_id,
            restart=int(env.get("SLURM_RESTART_COUNT", "0")),
            node=env.get("SLURMD_NODENAME") or socket.gethostname(),
            index=int(env.get("SLURM_PROCID", "0")),  # one task on each node
            nodelist=env.get("SLURM_JOB_NODELIST", "") if env.get("SLURM_NNODES", "1") != "1" else "",
            **common,  # type: ignore[arg-type]
        )
    if job_id := env.get("SUBMITIT_LOCAL_JOB_ID"):
        return Place(
            cluster="local",
            job_id=job_id,
            restart=0,
            node=socket.gethostname(),
            **common,  # type: ignore[arg-type]
        )
    raise UsageError("this is not a job", hint="the node entry is started by Slurm or by the local slot")


def variable(name: str) -> str | None:
    """One variable of the node's environment."""
    return os.environ.get(name)


def rank() -> tuple[int, int, int]:
    """(rank, local rank, world size) as torchrun sets them; (0, 0, 1) without it."""
    env = os.environ
    return int(env.get("RANK", "0")), int(env.get("LOCAL_RANK", "0")), int(env.get("WORLD_SIZE", "1"))


def granted_gpus(env: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The GPUs that Slurm or the local executor gave: indices, GPU- or MIG-uuids; empty if unsaid."""
    words = env.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return tuple(word.strip() for word in words if _GPU.fullmatch(word.strip()))


def publish(run_path: Path, attempt_path: Path, token: str, resume: str, restart: int) -> None:
    """Put the run's facts, and torch's single-process defaults, into this process's environment."""
    facts = {
        "HPCPOOLS_RUN": token,
        RUN_DIR: str(run_path),
        ATTEMPT_DIR: str(attempt_path),
        STOP_FILE: str(attempt_path / "stop"),
        "HPCPOOLS_METRICS_FILE": str(run_path / "metrics.jsonl"),
        "HPCPOOLS_CHECKPOINTS": str(run_path / "checkpoints"),
        "HPCPOOLS_RESUME": resume,
        "HPCPOOLS_RESTART": str(restart),
        # torch's env:// rendezvous; torchrun replaces these in the processes that it starts.
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_WORLD_SIZE": "1",
    }
    os.environ.update(facts)


def publish_group(index: int, nodes: int, host: str, port: int) -> None:
    """torch's variables for one process on each of several nodes, and for a launcher of the user's own."""
    facts = {"MASTER_ADDR": host, "MASTER_PORT": str(port), "NODE_RANK": str(index), "RANK": str(index)}
    os.environ.update(facts, WORLD_SIZE=str(nodes))


def addresses() -> list[str]:
    """Names under which the other nodes may reach this one, the best first: where Slurm's own srun listens
    on the first node (srun(1), SLURM_LAUNCH_NODE_IPADDR), then the host's name."""
    return [name for name in (os.environ.get("SLURM_LAUNCH_NODE_IPADDR"), socket.gethostname()) if name]


@contextlib.contextmanager
def private_temp() -> Iterator[None]:
    """A temporary folder for this process and its children alone: 0700, of a name that nobody can guess.

    Compilers' caches lie in it too, unless the user names others: torch's default is a fixed name in /tmp,
    which another user of the node can make first (SEC-9). Removed when the block ends.
    """
    before = dict(os.environ)
    try:
        folder = tempfile.TemporaryDirectory(prefix="hpcpools-", ignore_cleanup_errors=True)
    except OSError as error:  # a full disk: the training may need none
        print(f"hpcpools: no private temporary folder: {error}", file=sys.stderr)
        yield
        return
    with folder as path:
        tempfile.tempdir = path  # what tempfile has looked up already
        os.environ["TMPDIR"] = path
        for name in _CACHES:
            os.environ.setdefault(name, f"{path}/{name.partition('_')[0].lower()}")
        try:
            yield
        finally:
            tempfile.tempdir = None
            for name in ("TMPDIR", *_CACHES):
                os.environ.pop(name, None)
                os.environ.update({name: before[name]} if name in before else {})


def publish_batch(config: str, gpus: int) -> None:
    """For the tasks of a lane's batch: the pool's configuration, and no GPU where none was asked for."""
    os.environ["HPCPOOLS_CONFIG"] = config
    if not gpus:  # a node that does not fence its devices would show them all
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def python_path() -> list[str]:
    """The folders of PYTHONPATH."""
    return [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]


def publish_code(snapshot: Path, folders: list[str]) -> None:
    """Tell where the code snapshot lies; children import from ``folders`` first."""
    os.environ["HPCPOOLS_CODE"] = str(snapshot)
    if folders:
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(folders))


def child_environment(**changes: str) -> dict[str, str]:
    """This process's environment with ``changes``, for a child."""
    return {**os.environ, **changes}


def process_start(pid: int) -> int:
    """Start time of a process in clock ticks since boot (proc(5), field 22 of stat); 0 if it is gone."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return 0 if facts[0] in "ZX" else int(facts[19])  # a zombie has ended, its parent is slow
    except (OSError, ValueError, IndexError):
        return 0


def boot_id() -> str:
    """This boot of this machine (random(4)); pids mean nothing across boots."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _array_id(env: Mapping[str, str]) -> str:
    parent, index = env.get("SLURM_ARRAY_JOB_ID"), env.get("SLURM_ARRAY_TASK_ID")
    return f"{parent}_{index}" if parent and index else ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
