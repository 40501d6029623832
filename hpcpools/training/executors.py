"""The only home of submitit on the login side: its two executors, told to start our node entry.

submitit builds the sbatch script, sends it and parses the answer; locally it runs the controller that
enforces the time limit. What starts on the node is ``hpcpools.training.node`` with a JSON payload that
was durable before, so no pickle lies in the shared folder, and no rename is owed after sbatch (REL-11).
"""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import submitit
from submitit.core import utils

from hpcpools import atomic, interpreter, textsafe
from hpcpools.errors import NotFoundError, UnavailableError
from hpcpools.runs import sweeps
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Request, digest
from hpcpools.runs.sweeps import Array, SweepDirectory
from hpcpools.slurm import submit as slurm
from hpcpools.slurm.command import Runner

_JOB_ID = re.compile(r"[0-9]+(_[0-9]+)?")
# Seconds that srun leaves the other nodes after the first one ended: more than they need (group.ENDS).
LAST_TASK = 180
WCKEY = None  # submitit writes --wckey=submitit otherwise, which sites with TrackWCKey refuse


def node_command(run: Path, submission: int, digest: str) -> str:
    """The shell words that start the node entry."""
    words = (str(run), str(submission), digest)
    return shlex.join(interpreter.argv("hpcpools.training.node", *words, unbuffered=True))


class NodeSlurmExecutor(submitit.SlurmExecutor):
    """submitit's Slurm executor; sends through our runner, which tells refusal from uncertainty."""

    def __init__(
        self,
        run: RunDirectory,
        request: Request,
        runner: Runner,
        env: dict[str, str],
        exclude: tuple[str, ...] = (),
    ) -> None:
        super().__init__(folder=run.submitit)
        self._throttling = 0.0  # a controller is spared by arrays and batching, not by sleeping 0.2 s
        self._run, self._runner, self._env = run, runner, env
        self.update_parameters(**sbatch_parameters(request, exclude))

    def script(self, submission: int, digest: str) -> str:
        """The exact script that sbatch is given."""
        command = node_command(self._run.path, submission, digest)
        return str(self._make_submission_file_text(command, uid=str(submission))) + "\n"

    def send(self, submission: int) -> str:
        """Write the script beside the run and submit it; Slurm's job id.

        Raises what :func:`hpcpools.slurm.submit.sbatch` raises.
        """
        path = self._run.submitit / f"submission-{submission}.sbatch"
        atomic.write_bytes(path, self.script(submission, self._run.digest()).encode())
        return slurm.sbatch(self._runner, path, env=self._env)


def sbatch_parameters(request: Request, exclude: tuple[str, ...] = ()) -> dict[str, Any]:
    """submitit's parameters of exclusive nodes with one task each.

    ``--exclusive`` alone gives the step no GPU and only the memory asked for, hence the node's GPUs by
    number and ``mem=0``; since Slurm 22.05 srun does not inherit the job's CPUs, hence the export.
    """
    asked = request.resources
    parameters: dict[str, Any] = {
        "job_name": request.token,
        "comment": request.token,
        "time": asked.minutes,
        "nodes": asked.nodes,
        "ntasks_per_node": 1,
        "exclusive": True,
        "mem": "0",
        "signal_delay_s": asked.signal_lead,
        "wckey": WCKEY,
        "setup": ["export SRUN_CPUS_PER_TASK=$SLURM_CPUS_ON_NODE", *asked.setup],
        "additional_parameters": {"requeue": True, **{name: v or True for name, v in asked.options.items()}},
    }
    if asked.nodes > 1:  # the first node's entry names the cause before srun may end the others
        parameters["srun_args"] = ["--kill-on-bad-exit=0", f"--wait={LAST_TASK}"]
    if asked.gpus:
        parameters["gpus_per_node"] = f"{asked.gpu_type}:{asked.gpus}" if asked.gpu_type else asked.gpus
    if exclude:
        parameters["exclude"] = textsafe.slurm_field("exclude", ",".join(exclude))
    for name in ("partition", "account", "qos", "constraint"):
        if value := getattr(asked, name):
            parameters[name] = value
    return parameters


class ArrayExecutor(submitit.SlurmExecutor):
    """submitit's executor for one array: each element finds its run by its index in the manifest."""

    def __init__(
        self,
        place: SweepDirectory,
        array: Array,
        request: Request,
        runner: Runner,
        env: dict[str, str],
        exclude: tuple[str, ...] = (),
    ) -> None:
        super().__init__(folder=place.folder)
        self._throttling = 0.0
        self._place, self._array, self._runner, self._env = place, array, runner, env
        same_text = {"job_name": array.key, "comment": array.key}  # one text for all elements
        self.update_parameters(
            **{**sbatch_parameters(request, exclude), **same_text, "array_parallelism": array.parallel}
        )
        self.parameters["map_count"] = len(array.elements)

    def script(self) -> str:
        """The exact script that sbatch is given."""
        manifest = self._place.manifest(self._array.number)
        words = (str(manifest), digest(sweeps.encode(self._array)))
        command = shlex.join(interpreter.argv("hpcpools.training.element", *words, unbuffered=True))
        return str(self._make_submission_file_text(command, uid=str(self._array.number))) + "\n"

    def send(self) -> str:
        """Submit the array with one sbatch; its job id. Raises like :func:`hpcpools.slurm.submit.sbatch`."""
        path = self._place.script(self._array.number)
        atomic.write_bytes(path, self.script().encode())
        return slurm.sbatch(self._runner, path, env=self._env)


class NodeLocalExecutor(submitit.LocalExecutor):
    """submitit's local executor: a controller process that starts the entry and ends it at its limit."""

    def __init__(self, run: RunDirectory, request: Request) -> None:
        super().__init__(folder=run.submitit)
        self._throttling = 0.0
        self._run = run
        self.update_parameters(
            timeout_min=request.resources.minutes,
            signal_delay_s=request.resources.signal_lead,
            gpus_per_node=request.resources.gpus,
        )

    def start(self, submission: int) -> subprocess.Popen[bytes]:
        """Start the controller; its pid is the job id."""
        command = node_command(self._run.path, submission, self._run.digest())
        job: submitit.LocalJob[Any] = self._submit_command(command)
        if job._process is None:
            raise UnavailableError("submitit started no controller", hint="this is a bug; see its log")
        return job._process


def default_log(run: RunDirectory, job_id: str) -> tuple[Path, Path]:
    """submitit's own stdout and stderr of a job: what was said before the entry took over."""
    folder = run.submitit
    if "_" in job_id and (sweep := run.request().sweep):  # an array's element: beside the array's script
        folder = SweepDirectory(run.root, sweep).folder
    if not _JOB_ID.fullmatch(job_id):
        raise NotFoundError(f"{textsafe.one_line(job_id)!r} is no job's id", hint="the run is damaged")
    paths = utils.JobPaths(folder, job_id, 0)
    return Path(paths.stdout), Path(paths.stderr)
