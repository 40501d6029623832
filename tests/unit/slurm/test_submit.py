"""Submission: what was refused, what was never queued, and what nobody can know."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from hpcpools.errors import (
    HpcpoolsError,
    SlurmRefusedError,
    SlurmUnavailableError,
    SubmissionUnknownError,
    UsageError,
)
from hpcpools.slurm import failure, submit
from hpcpools.slurm.command import Runner
from tests.unit.slurm import captured
from tests.unit.slurm.conftest import Fake

FAILURES: list[dict[str, Any]] = json.loads(captured("failures.json"))["sbatch"]
ERRORS: dict[str, type[HpcpoolsError]] = {
    "refused": SlurmRefusedError,
    "not_queued": SlurmUnavailableError,
    "unknown": SubmissionUnknownError,
}
SCRIPT = Path("/shared/run/script.sh")


def env(runner: Runner) -> dict[str, str]:
    """What a job would get."""
    return {"PATH": runner.environment["PATH"], "WORK": runner.environment["WORK"]}


def submitted(runner: Runner) -> str:
    """sbatch of a script."""
    return submit.sbatch(runner, SCRIPT, env=env(runner))


@pytest.mark.parametrize("seen", FAILURES, ids=lambda seen: " ".join(seen["argv"][2:]) or "sbatch")
def test_real_failures(fake: Fake, seen: dict[str, Any]) -> None:
    """Each failure that Slurm 22.05 gave on a real cluster has the one right error."""
    runner = fake(sbatch=f"printf %s {shlex.quote(seen['stderr'])} >&2; exit {seen['code']}")
    with pytest.raises(ERRORS[seen["verdict"]]) as caught:
        submitted(runner)
    assert type(caught.value) is ERRORS[seen["verdict"]]


@pytest.mark.parametrize(
    "answer",
    [
        "Zero Bytes were transmitted or received",
        "Unable to contact slurm controller (send failure)",
        "Unable to contact slurm controller (receive failure)",
        "Connection reset by peer",
        "Resource temporarily unavailable",
        "Unspecified error",
        "Protocol authentication error",
        "Ein neuer Fehler",
        "Invalid partition name specified, perhaps",
    ],
)
def test_unknown_answers(fake: Fake, answer: str) -> None:
    """What a broken connection could say, or nobody has seen before, never counts as a refusal."""
    runner = fake(sbatch=f"echo 'sbatch: error: Batch job submission failed: {answer}' >&2; exit 1")
    with pytest.raises(SubmissionUnknownError, match="may exist"):
        submitted(runner)


@pytest.mark.parametrize(
    "lines",
    [
        "exit 1",
        "exit 0",
        "echo 'Submitted batch job'; exit 0",
        "echo 42; exit 1",
        "kill -9 $$",
        "echo 'sbatch: error: Batch job submission failed: Invalid qos specification' >&2; kill -9 $$",
        "echo 'Segmentation fault' >&2; exit 139",
        "sleep 60",
    ],
)
def test_unknown_ends(fake: Fake, lines: str) -> None:
    """A silent, killed, hanging or babbling sbatch may have queued the job."""
    with pytest.raises(SubmissionUnknownError):
        submitted(fake(sbatch=lines, timeout=1.0))


def test_missing_sbatch(fake: Fake) -> None:
    """Without sbatch nothing was sent."""
    with pytest.raises(SlurmUnavailableError, match="cannot be run"):
        submitted(fake())


@pytest.mark.parametrize(
    "printed", ["42", "42;bench", "Welcome to the site\\n42", "sbatch: using account a\\n42;b"]
)
def test_job_id(fake: Fake, printed: str) -> None:
    """The id is the last word of sbatch's output, with or without the cluster, below a wrapper's greeting."""
    assert submitted(fake(sbatch=f"printf '{printed}\\n'")) == "42"


def test_what_sbatch_gets(fake: Fake) -> None:
    """sbatch gets the script as its only operand and the given environment as it is."""
    runner = fake(sbatch='echo "$@" > "$WORK/argv"; env > "$WORK/env"; echo 7')
    submitted(runner)
    work = Path(runner.environment["WORK"])
    assert (work / "argv").read_text() == f"--parsable {SCRIPT}\n"
    assert "LC_ALL" not in (work / "env").read_text()


def test_last_answer_counts(fake: Fake) -> None:
    """A retry's or a site plugin's earlier lines do not hide Slurm's final answer."""
    text = (
        "sbatch: error: lua: Batch job submission failed: Invalid qos specification\n"
        "sbatch: error: Slurm job queue full, sleeping and retrying\n"
        "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n"
    )
    assert failure.of_submission(text) == "unknown"


def test_dry_run(fake: Fake) -> None:
    """--test-only gives Slurm's estimate (printed on stderr), or its refusal."""
    said = "sbatch: Job 13 to start at 2026-11-27T16:22:12 using 1 processors on nodes m3 in partition gpu"
    runner = fake(sbatch=f"echo '{said}' >&2")
    assert submit.test_only(runner, SCRIPT, env=env(runner)) == said.removeprefix("sbatch: ")
    for answer, error in (
        ("Invalid partition name specified", SlurmRefusedError),
        ("Unable to contact slurm controller (connect failure)", SlurmUnavailableError),
        ("Socket timed out on send/recv operation", SlurmUnavailableError),
    ):
        runner = fake(sbatch=f"echo 'allocation failure: {answer}' >&2; exit 1")
        with pytest.raises(error):
            submit.test_only(runner, SCRIPT, env=env(runner))


def test_cancel_is_one_call(fake: Fake) -> None:
    """Many ids are one call; none is no call; a signal is passed by name."""
    runner = fake(scancel='echo "$@" >> "$WORK/argv"')
    submit.scancel(runner, [])
    submit.scancel(runner, ["1", "2_3"])
    submit.scancel(runner, ["4"], signal="USR2")
    assert (Path(runner.environment["WORK"]) / "argv").read_text() == "1 2_3\n--signal=USR2 4\n"
    assert runner.calls["scancel"].count == 2


def test_cancel_of_the_gone(fake: Fake) -> None:
    """Jobs that ended before are what scancel wanted, whatever its exit code."""
    gone = "echo 'scancel: error: Kill job error on job id 1: Invalid job id specified' >&2"
    submit.scancel(fake(scancel=f"{gone}; exit 1"), ["1"])


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("Access/permission denied", SlurmRefusedError),
        ("Unable to contact slurm controller (connect failure)", SlurmUnavailableError),
        ("Socket timed out on send/recv operation", SlurmUnavailableError),
    ],
)
def test_cancel_fails(fake: Fake, answer: str, error: type[HpcpoolsError]) -> None:
    """A failure for one id is an error also when another id was only gone."""
    lines = f"""
echo 'scancel: error: Kill job error on job id 2: {answer}' >&2
echo 'scancel: error: Kill job error on job id 1: Invalid job id specified' >&2
exit 8"""
    with pytest.raises(error):
        submit.scancel(fake(scancel=lines), ["1", "2"])
    with pytest.raises(SlurmUnavailableError):
        submit.scancel(fake(scancel="exit 1"), ["1"])


@pytest.mark.parametrize("job_id", ["", "-u", "--me", "1 2", "1;2", "1\n", "1_[1-3]", "x", "hp-1", "1_", "١"])  # noqa: RUF001
def test_only_ids_are_cancelled(job_id: str) -> None:
    """Nothing but a job id reaches scancel's command line."""
    with pytest.raises(UsageError):
        submit.scancel_argv([job_id])


@pytest.mark.parametrize("signal", ["", "usr2", "--me", "KILL 1"])
def test_only_signals_are_sent(signal: str) -> None:
    """Nothing but a signal's name or number reaches scancel's command line."""
    with pytest.raises(UsageError):
        submit.scancel_argv(["1"], signal)
