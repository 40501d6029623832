"""The environment that Slurm's own commands get, and the one that a job gets.

Pure functions of a base environment. Refuses to pass on what an outer job, a user's habits or a secret
left in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

# Options of Slurm's commands: SQUEUE_STATES would hide jobs, SBATCH_PARTITION would overrule our script.
_OPTIONS = (
    "SLURM_*",
    "SBATCH_*",
    "SRUN_*",
    "SALLOC_*",
    "SQUEUE_*",
    "SACCT_*",
    "SINFO_*",
    "SCANCEL_*",
    "SCONTROL_*",
)
# SLURM_CLUSTERS is not kept: one configuration is one cluster, and squeue would print headers.
_WHERE = ("SLURM_CONF", "SLURM_CONF_SERVER")
_OUTER_JOB = (
    *(
        "SLURMD_*",
        "SLURMSTEPD_*",
        "SUBMITIT_*",
        "HPCPOOLS_*",
        "PMI_*",
        "PMI2_*",
        "PMIX_*",
        "OMPI_*",
        "TORCHELASTIC_*",
    ),
    *("MASTER_*", "RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "NODE_RANK"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"),
    *("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"),
)
_SECRET = ("*TOKEN*", "*SECRET*", "*KEY*", "*PASS*", "*CREDENTIAL*")
_NOT_SECRET = ("TOKENIZERS_*",)  # Hugging Face's TOKENIZERS_PARALLELISM


def client_environment(base: Mapping[str, str]) -> dict[str, str]:
    """``base`` for squeue, sacct, sinfo, scontrol and scancel.

    Only their own settings decide what they print: plain C words, times as epoch seconds, array ranges in
    full. The configuration's place and a Slurm JWT stay; every other SLURM_, SQUEUE_, ... variable goes.
    """
    kept = {
        name: value
        for name, value in base.items()
        if not _matches(name, _OPTIONS) or name in (*_WHERE, "SLURM_JWT")
    }
    return kept | {"LC_ALL": "C", "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}


def job_environment(base: Mapping[str, str], keep: Sequence[str] = ()) -> dict[str, str]:
    """``base`` for sbatch, hence for the job (SEC-7).

    Dropped: options of Slurm's commands and everything that an outer job set (SLURM_*, SBATCH_*, RANK,
    WORLD_SIZE, MASTER_*, CUDA_VISIBLE_DEVICES, PMI_*, OMPI_*, TORCHELASTIC_*, ...), our own HPCPOOLS_*, and
    every name that holds TOKEN, SECRET, KEY, PASS or CREDENTIAL in any case. SLURM_CONF always stays.
    ``keep`` holds shell patterns (``WANDB_API_KEY``, ``AWS_*``) of names that stay whatever they match.
    """
    dropped = (*_OPTIONS, *_OUTER_JOB)
    return {
        name: value
        for name, value in base.items()
        if name in _WHERE or _matches(name, keep) or not (_matches(name, dropped) or _is_secret(name))
    }


def _is_secret(name: str) -> bool:
    return _matches(name.upper(), _SECRET) and not _matches(name, _NOT_SECRET)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
