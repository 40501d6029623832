"""What Slurm's commands and what jobs get of our environment."""

from __future__ import annotations

import pytest

from hpcpools.slurm.environment import client_environment, job_environment

KEPT = {
    "PATH": "/bin",
    "HOME": "/h",
    "PYTHONPATH": "/p",
    "NCCL_DEBUG": "INFO",
    "TOKENIZERS_PARALLELISM": "false",
}


@pytest.mark.parametrize(
    "name",
    [
        *("SLURM_JOB_ID", "SLURM_CLUSTERS", "SBATCH_PARTITION", "SRUN_CPUS_PER_TASK", "SQUEUE_STATES"),
        *("SACCT_FEDERATION", "SLURMD_NODENAME", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR"),
        *("MASTER_PORT", "CUDA_VISIBLE_DEVICES", "PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK"),
        *("TORCHELASTIC_RUN_ID", "HPCPOOLS_RUN_DIR", "SLURM_JWT"),
        *(
            "WANDB_API_KEY",
            "HF_TOKEN",
            "my_secret",
            "Db_Password",
            "AWS_SECRET_ACCESS_KEY",
            "gcp_credentials",
        ),
    ],
)
def test_dropped_for_a_job(name: str) -> None:
    """An outer job's variables, command options, our own and secrets do not follow into a job, any case."""
    assert job_environment({**KEPT, name: "x"}) == KEPT


def test_where_slurm_is_stays() -> None:
    """SLURM_CONF stays: without it sbatch finds no cluster."""
    base = {**KEPT, "SLURM_CONF": "/etc/slurm/slurm.conf"}
    assert job_environment(base) == base


def test_keep() -> None:
    """Names that the user lists stay, as shell patterns, case as written; others of the kind do not."""
    base = {"WANDB_API_KEY": "1", "AWS_SECRET_ACCESS_KEY": "2", "AWS_TOKEN": "3", "aws_token": "4"}
    kept = job_environment(base, keep=["WANDB_API_KEY", "AWS_*"])
    assert kept == {"WANDB_API_KEY": "1", "AWS_SECRET_ACCESS_KEY": "2", "AWS_TOKEN": "3"}


def test_client_ignores_habits() -> None:
    """SQUEUE_STATES, SLURM_CLUSTERS and the like cannot change what we read; the credentials stay."""
    habits = {"SQUEUE_STATES": "R", "SQUEUE_FORMAT": "%i", "SLURM_CLUSTERS": "a,b", "SACCT_FEDERATION": "1"}
    where = {"SLURM_CONF": "/c", "SLURM_JWT": "t", "PATH": "/bin"}
    ours = {"LC_ALL": "C", "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}
    assert client_environment({**habits, **where, "LC_ALL": "de_DE.UTF-8"}) == {**where, **ours}
