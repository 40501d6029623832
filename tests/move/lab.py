"""What these tests share: planted run directories, another login node, kill -9 of all services."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from hpcpools.runs.request import Request, Resources, encode
from hpcpools.runs.token import new_token
from tests.project import Project

MORE_TASKS = """
@task(queue="evaluation", timeout="5m")
def stay(until, mark):
    with open(mark, "a") as file:
        file.write("start\\n")
    wait_for(until)
    return "released"

@task(queue="evaluation")
def score(checkpoint, step):
    return step
"""
_AS_HOST = "import os, socket, sys; socket.sethostname(sys.argv[1]); os.execv(sys.argv[2], sys.argv[2:])"


def prepared(project: Project, settings: str = "") -> Project:
    """The project with the tasks above."""
    tasks = project.folder / "usertasks.py"
    tasks.write_text(tasks.read_text() + MORE_TASKS)
    project.configure(settings)
    return project


def plant(root: Path, number: int, target: str = "usertasks:learn") -> list[str]:
    """So many ended runs, as their files would be; written without fsync."""
    for folder in (root, root / ".live", root / ".ended"):
        folder.mkdir(mode=0o700, exist_ok=True)
    now, made = time.time(), []
    for each in range(number):
        at = now - number + each - 100
        run = root / new_token(at)
        for folder in (run, *(run / name for name in ("submissions", "attempts", "checkpoints", "submitit"))):
            folder.mkdir(mode=0o700)
        request = Request(run.name, at, "slurm", Resources(), target=target, arguments={"seed": each})
        job = {"job_id": str(1000 + each), "cluster": "", "at": at}
        states = ((0, "SUBMITTING"), (1, "PENDING"), (5, "RUNNING"), (50, "COMPLETED"))
        lines = [json.dumps({"at": at + after, "state": state}) for after, state in states]
        _write(run / "run.json", encode(request).decode())
        _write(run / "submissions" / "0.json", json.dumps({"at": at}))
        _write(run / "submissions" / "0.job.json", json.dumps(job))
        _write(run / "events.jsonl", "\n".join(lines) + "\n")
        made.append(run.name)
    return made


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)


def runtime_dir(project: Project, host: str = "*") -> Path:
    """The runtime directory of the project's services."""
    (found,) = Path(project.env["XDG_STATE_HOME"]).glob(f"hpcpools/{host}/*/supervisor.lock")
    return found.parent


def redis(project: Project, host: str = "*") -> Any:
    """A bare client of the project's own Redis."""
    return Redis(unix_socket_path=str(runtime_dir(project, host) / "redis.sock"))


def supervisor(project: Project, host: str = "*") -> int:
    """The pid of the supervisor."""
    return int(json.loads((runtime_dir(project, host) / "supervisor.lock").read_text())["pid"])


def kill_all(project: Project) -> None:
    """kill -9 of the supervisor, its beacon and all services; wait until they are gone."""
    pids = {supervisor(project), *children(supervisor(project))}
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    project.until(lambda: not any(map(alive, pids)), "all are gone")


def children(pid: int) -> set[int]:
    """The children of a process."""
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class OtherHost:
    """The same project, files and user on another login node: a UTS namespace with a host name of its own."""

    def __init__(self, project: Project, name: str) -> None:
        unshare = shutil.which("unshare")
        own = [] if os.geteuid() == 0 else ["--map-root-user"]
        self._prefix = [str(unshare), "--uts", *own, sys.executable, "-c", _AS_HOST, name]
        self._project = project
        self.name = name
        probe = [*self._prefix, sys.executable, "-c", "pass"]
        if not unshare or subprocess.run(probe, capture_output=True, check=False).returncode:
            pytest.skip("needs a UTS namespace: root, or user namespaces")

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Run a command there, in the background."""
        return subprocess.Popen(
            [*self._prefix, sys.executable, "-m", "hpcpools", *words],
            cwd=self._project.folder,
            env=self._project.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def cli(self, *words: str) -> tuple[int, str, str]:
        """Run a command there; its exit code, stdout, stderr."""
        process = self.start(*words)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def running(self) -> set[str]:
        """Services that run there."""
        return running_rows(json.loads(self.cli("ps", "--json")[1]))


def running_rows(rows: list[dict[str, Any]]) -> set[str]:
    """Names of those that run."""
    return {row["name"] for row in rows if row["state"] == "running"}


def running(project: Project) -> set[str]:
    """Services that run on this host."""
    return running_rows(project.json("ps"))
