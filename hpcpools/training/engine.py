"""Which engine serves the training pool here: Slurm where it is, the one local slot where it is not."""

from __future__ import annotations

from typing import Literal

from hpcpools.config import Config, environment
from hpcpools.errors import SlurmUnavailableError
from hpcpools.runs.request import Engine
from hpcpools.slurm import ledger
from hpcpools.slurm.command import Runner

On = Literal["auto", "slurm", "local"]


def runner(config: Config) -> Runner:
    """The Slurm command runner of this process's environment."""
    record = config.runtime_dir / ledger.NAME
    return Runner(environment(), timeout=float(config.slurm.command_timeout), record=record)


def choose(config: Config, on: On = "auto") -> Engine:
    """``on``, else the config's engine, else Slurm if its commands are on PATH.

    Raises SlurmUnavailableError if Slurm is asked for and not there.
    """
    wanted = on if on != "auto" else config.training.engine
    if wanted == "local":
        return "local"
    if runner(config).available():
        return "slurm"
    if wanted == "slurm":
        raise SlurmUnavailableError(
            "sbatch, srun and squeue are not on PATH", hint="log in to a Slurm node, or use --on local"
        )
    return "local"
