"""submitit's Slurm executor for one batch: a shared Slurm job that starts our node entry.

Refuses to hold a whole node (an exclusive training takes those) and to be requeued by Slurm: what a lost job
leaves goes back into its queue, and may then run elsewhere.
"""

from __future__ import annotations

import shlex
from typing import Any

import submitit

from hpcpools import atomic, interpreter
from hpcpools.config import Config
from hpcpools.runs.batches import Batch, BatchDirectory
from hpcpools.slurm import submit as slurm
from hpcpools.slurm.command import Runner
from hpcpools.training.executors import WCKEY
from hpcpools.training.submit import job_env

WARNING = 10  # seconds before the limit at which Slurm's signal comes, which the entry does not heed


class LaneExecutor(submitit.SlurmExecutor):
    """One batch, one job, one task that runs the batch's short jobs in turn."""

    def __init__(self, config: Config, place: BatchDirectory, batch: Batch, runner: Runner) -> None:
        super().__init__(folder=place.submitit)
        self._throttling = 0.0
        self._place, self._runner, self._env = place, runner, job_env(config)
        self.update_parameters(**sbatch_parameters(config, batch))

    def script(self) -> str:
        """The exact script that sbatch is given."""
        words = (str(self._place.path), self._place.digest())
        command = shlex.join(interpreter.argv("hpcpools.lane.node", *words, unbuffered=True))
        return str(self._make_submission_file_text(command, uid="lane")) + "\n"

    def send(self) -> str:
        """Submit it; Slurm's job id. Raises like :func:`hpcpools.slurm.submit.sbatch`."""
        path = self._place.submitit / "batch.sbatch"
        atomic.write_bytes(path, self.script().encode())
        return slurm.sbatch(self._runner, path, env=self._env)


def sbatch_parameters(config: Config, batch: Batch) -> dict[str, Any]:
    """submitit's parameters of one batch; since Slurm 22.05 srun does not inherit the job's CPUs."""
    parameters: dict[str, Any] = {
        "job_name": batch.token,
        "comment": batch.token,
        "time": batch.minutes,
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": batch.cpus,
        "mem": f"{batch.mem}M",
        "partition": batch.partition,
        "signal_delay_s": WARNING,
        "wckey": WCKEY,
        "setup": ["export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK", *config.training.setup],
        "additional_parameters": {"no-requeue": True},
    }
    if batch.gpus:
        parameters["gpus_per_node"] = batch.gpus
    for name in ("account", "qos", "constraint"):
        if value := getattr(config.lane, name):
            parameters[name] = value
    return parameters
