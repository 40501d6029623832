"""Submitting and cancelling: sbatch, its dry run, and scancel.

A failed sbatch is not a failed submission: refuses to call a job absent unless Slurm's words prove it
(REL-10).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpcpools.errors import SlurmRefusedError, SlurmUnavailableError, SubmissionUnknownError, UsageError
from hpcpools.slurm import failure
from hpcpools.slurm.command import Finished, Runner, unavailable
from hpcpools.textsafe import one_line

_JOB_ID = re.compile(r"[0-9]+(?:_[0-9]+)?")
_SIGNAL = re.compile(r"[A-Z][A-Z0-9]*|[0-9]{1,2}")
_SUBMITTED = re.compile(r"([0-9]+)(?:;\S*)?")  # --parsable: the id, and the cluster on a multi-cluster site
# An id that is gone is what scancel wanted.
_GONE = re.compile(r"(?:Invalid job id specified|Job/step already completing or completed)\s*$")


def sbatch_argv(script: Path, *, test_only: bool = False) -> list[str]:
    """The command that submits ``script``, or only tests it. Every option is in the script."""
    return ["sbatch", "--test-only" if test_only else "--parsable", str(script.absolute())]


def sbatch(runner: Runner, script: Path, *, env: Mapping[str, str]) -> str:
    """Submit ``script`` with exactly ``env``; the Slurm job id.

    Raises SlurmRefusedError: Slurm said no, nothing was queued. SlurmUnavailableError: nothing was sent or
    kept, safe to try again. SubmissionUnknownError: the job may exist; look for its token first.
    """
    done = runner.finish(sbatch_argv(script), env=env)
    said = failure.words(done.stderr, done.stdout)
    if done.code == 0:
        lines = done.stdout.split()  # a site's wrapper may print above
        found = _SUBMITTED.fullmatch(lines[-1]) if lines else None
        if found:
            return found.group(1)
        raise SubmissionUnknownError(
            f"sbatch printed no job id: {said}", hint="the run is looked for by its token"
        )
    verdict = _verdict(done)
    if verdict == "refused":
        raise SlurmRefusedError(f"Slurm refused the job: {said}", hint="nothing was queued")
    if verdict == "not_queued":
        raise SlurmUnavailableError(f"nothing was queued: {said}", hint="try again when Slurm answers")
    why = "did not end in time" if done.code is None else f"failed ({said})"
    raise SubmissionUnknownError(
        f"sbatch {why}; the job may exist", hint="the run is looked for by its token"
    )


def test_only(runner: Runner, script: Path, *, env: Mapping[str, str]) -> str:
    """What ``sbatch --test-only`` expects, one line: when and where ``script`` would start.

    Raises SlurmRefusedError or SlurmUnavailableError. Nothing is ever queued.
    """
    done = runner.finish(sbatch_argv(script, test_only=True), env=env)
    if done.code == 0:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if " to start at " in line]
        return (
            one_line(lines[-1].removeprefix("sbatch: ")) if lines else failure.words(done.stderr, done.stdout)
        )
    if _verdict(done) == "refused":
        raise SlurmRefusedError(f"Slurm would refuse the job: {failure.words(done.stderr)}")
    raise unavailable("sbatch --test-only", done)


def scancel_argv(job_ids: Sequence[str], signal: str | None = None) -> list[str]:
    """The command that cancels, or signals the steps of, all ``job_ids``. Raises UsageError for no job id."""
    for job_id in job_ids:
        if not _JOB_ID.fullmatch(job_id):
            raise UsageError(f"{one_line(job_id)!r} is not a Slurm job id", hint="123 or 123_4")
    if signal is not None and not _SIGNAL.fullmatch(signal):
        raise UsageError(f"{one_line(signal)!r} is not a signal", hint="for example USR2")
    return ["scancel", *([f"--signal={signal}"] if signal else []), *job_ids]


def scancel(runner: Runner, job_ids: Sequence[str], signal: str | None = None) -> None:
    """Cancel (or signal) many jobs in one call; ids already gone are fine, no ids is no call.

    Raises SlurmRefusedError (not yours) or SlurmUnavailableError (some may be left).
    """
    if not job_ids:
        return
    done = runner.finish(scancel_argv(job_ids, signal))
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    left = [line for line in lines if not _GONE.search(line)]
    if done.code == 0 or (done.code is not None and lines and not left):
        return
    if done.code is not None and failure.of_query("\n".join(left)) == "refused":
        raise SlurmRefusedError(f"scancel: {failure.words(done.stderr)}")
    raise unavailable("scancel", done)


def requeue(runner: Runner, job_id: str) -> None:
    """Put a running job back into the queue: scontrol(1) requeue. Raises SlurmUnavailableError."""
    if not _JOB_ID.fullmatch(job_id):
        raise UsageError(f"{one_line(job_id)!r} is not a Slurm job id", hint="123 or 123_4")
    done = runner.finish(["scontrol", "requeue", job_id], timeout=60.0)
    if done.code != 0:
        raise unavailable("scontrol requeue", done)


def _verdict(done: Finished) -> failure.Verdict:
    return failure.of_submission(done.stderr) if done.code is not None and done.code > 0 else "unknown"
