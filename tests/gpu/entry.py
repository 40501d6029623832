"""The real node entry as a subprocess, as Slurm would start it on node n2, with a fake pynvml on its path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hpcpools.runs import directory
from hpcpools.runs.attempts import Attempt, read_attempts
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Engine, Request, Resources
from hpcpools.runs.token import new_token
from hpcpools.schema import GpuChecks, Telemetry
from tests.gpu import fake_nvml

QUICK = GpuChecks(call_timeout=0.4, total_timeout=2.0)


class Node:
    """``start`` runs the entry as Slurm would on node n2; the run's command makes a file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "runs"
        self.ran = folder / "ran"

    def start(
        self,
        profile: dict[str, Any],
        limits: GpuChecks = QUICK,
        gpus: int = 4,
        engine: Engine = "slurm",
        then: str = "true",
        telemetry: Telemetry = Telemetry(enabled=False),  # noqa: B008 - frozen
    ) -> RunDirectory:
        """One attempt, to its end."""
        now = time.time()
        request = Request(
            token=new_token(now),
            created=now,
            engine=engine,
            resources=Resources(gpus=gpus),
            command=("/bin/sh", "-c", f"touch {self.ran}; {then}"),
            workdir=str(self.folder),
            gpu_checks=limits,
            telemetry=telemetry,
        )
        run = directory.create(self.root, request)
        run.next_submission(now)
        fake = fake_nvml.install(self.folder / "fake", profile)
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(fake), "CUDA_VISIBLE_DEVICES": "0,1,2,3"}
        env |= {"SLURM_JOB_ID": "17", "SLURMD_NODENAME": "n2"}
        argv = [sys.executable, "-P"] if sys.version_info >= (3, 11) else [sys.executable]
        argv += ["-m", "hpcpools.training.node", str(run.path), "0", run.digest()]
        done = subprocess.run(argv, env=env, check=False, timeout=60, capture_output=True, text=True)
        self.exit_code = done.returncode
        return run

    def evidence(self, run: RunDirectory, phase: str = "preflight") -> dict[str, Any]:
        """What the attempt's file says."""
        found: dict[str, Any] = json.loads((run.attempts / "0.0" / f"{phase}.json").read_text())
        return found


def only(run: RunDirectory) -> Attempt:
    """The run's one attempt."""
    (attempt,) = read_attempts(run)
    return attempt
