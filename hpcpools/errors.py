"""Every error a user can meet, one tree; each says what happened, which value, and what to do next.

HpcpoolsError                  exit 1
├── UsageError                 exit 2   the command line or a call is wrong
├── ConfigError                exit 78  hpcpools.toml (EX_CONFIG)
├── NotFoundError              exit 3   no such run, job, task
├── RefusedError               exit 4   routing, allow-list, signature, policy
├── RunFailedError             exit 5   a run or short job ended without success
├── WaitTimeoutError           exit 6   the wait ended before the work did
├── UnavailableError           exit 69  Redis or Slurm does not answer (EX_UNAVAILABLE)
│   ├── RedisUnavailableError
│   ├── SlurmUnavailableError
│   └── SubmissionUnknownError          sbatch failed and nobody can say yet whether the job exists
├── SlurmRefusedError          exit 4   Slurm said no; nothing was queued
└── PermissionsError           exit 77  owner or mode of a file or directory is unsafe (EX_NOPERM)
"""

from __future__ import annotations


class HpcpoolsError(Exception):
    """Root of the tree. ``hint`` is the next step for the user, one sentence."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(HpcpoolsError):
    """The command line, or the arguments of a call, are wrong."""

    exit_code = 2


class ConfigError(HpcpoolsError):
    """The configuration has a wrong value; the message names file, key, value and what is allowed."""

    exit_code = 78


class NotFoundError(HpcpoolsError):
    """No run, job, task or file of that name."""

    exit_code = 3


class RefusedError(HpcpoolsError):
    """Routing, the allow-list, a signature or a policy says no."""

    exit_code = 4


class SlurmRefusedError(RefusedError):
    """Slurm refused the request; nothing was queued. The message holds Slurm's own words."""


class RunFailedError(HpcpoolsError):
    """A run or a short job ended without success."""

    exit_code = 5


class WaitTimeoutError(HpcpoolsError):
    """The wait ended before the work did; the work goes on."""

    exit_code = 6


class UnavailableError(HpcpoolsError):
    """A service does not answer; nothing is known to be wrong with the work itself."""

    exit_code = 69


class RedisUnavailableError(UnavailableError):
    """Redis does not answer."""


class SlurmUnavailableError(UnavailableError):
    """A Slurm command failed, timed out or is missing."""


class SubmissionUnknownError(UnavailableError):
    """sbatch failed in a way that may have queued the job; the run stays SUBMITTING until it is found."""


class PermissionsError(HpcpoolsError):
    """A file or directory has an unsafe owner or mode."""

    exit_code = 77
