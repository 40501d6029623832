"""sacct: every attempt with its steps, and the ways in which accounting is not there."""

from __future__ import annotations

import json

import pytest

from hpcpools.errors import SlurmUnavailableError
from hpcpools.slurm import accounting, records
from tests.unit.slurm import SEPARATOR, captured
from tests.unit.slurm.conftest import Fake

JOBS = {(job.job_id, job.attempt): job for job in accounting.parse(captured("sacct.txt"), SEPARATOR)}


def test_out_of_memory_is_in_the_step() -> None:
    """A job whose step ran out of memory says FAILED 1:0; the step says OUT_OF_MEMORY."""
    job = JOBS["41", 0]
    assert (job.state, job.exit_code, job.signal) == ("FAILED", 1, None)
    assert [(step.name, step.state) for step in job.steps] == [("batch", "FAILED"), ("0", "OUT_OF_MEMORY")]
    assert job.out_of_memory
    assert not JOBS["38", 0].out_of_memory


def test_attempts() -> None:
    """Every attempt of a requeued job is there, oldest first, with its own end and its own steps."""
    ends = {i: [JOBS[i, n].state for n in (0, 1)] for i in ("20", "34", "35")}
    assert ends == {
        "20": ["REQUEUED", "COMPLETED"],
        "34": ["PREEMPTED", "COMPLETED"],
        "35": ["NODE_FAIL", "RUNNING"],
    }
    assert all(len(JOBS[i, n].steps) == 1 for i in ends for n in (0, 1))
    first, second = JOBS["34", 0], JOBS["34", 1]
    assert first.end is not None
    assert second.start is not None
    assert first.end <= second.start
    assert first.token == second.token != ""


def test_ends() -> None:
    """Who cancelled is left out; TIMEOUT and CANCELLED have no exit code, though Slurm writes 0:0."""
    assert (JOBS["4", 0].state, JOBS["4", 0].exit_code, JOBS["4", 0].start) == ("CANCELLED", None, None)
    assert (JOBS["33", 0].state, JOBS["33", 0].exit_code) == ("TIMEOUT", None)
    assert (JOBS["40", 0].state, JOBS["40", 0].signal) == ("FAILED", 9)
    assert (JOBS["37", 0].state, JOBS["37", 0].exit_code) == ("COMPLETED", 0)


def test_unstarted_array_elements() -> None:
    """Elements cancelled before they started are one record of sacct and a job each here."""
    assert {i for i, _ in JOBS if i.startswith("53_")} == {f"53_{n}" for n in (1, 3, 4, 5, 900)}
    assert {JOBS[f"42_{n}", 0].nodes for n in (2, 3)} == {""}
    text = SEPARATOR.join(["9_[0-10:5,12%2]", *["x"] * (len(accounting._FIELDS) - 1), ""])
    assert [job.job_id for job in accounting.parse(text, SEPARATOR)] == ["9_0", "9_5", "9_10", "9_12"]


def test_running_jobs() -> None:
    """A running attempt has no end and no exit code; comments come at the end, so the name has the token."""
    job = JOBS["35", 1]
    assert (job.state, job.end, job.exit_code, job.token) == ("RUNNING", None, None, job.name)


def test_hostile_names() -> None:
    """Newlines, separators and controls in names shift nothing and print safely."""
    assert JOBS["46", 0].name == r"n\n99|RUNNING|"
    assert JOBS["47", 0].name == r"\x0d\x1b]0;owned\x07"
    assert JOBS["45", 0].token == ""
    assert {JOBS[i, 0].state for i in ("45", "46", "47", "48", "49")} == {"COMPLETED"}
    assert not {"98", "99"} & {i for i, _ in JOBS}


def test_reused_id() -> None:
    """The same id with another name is another job, whose attempts are counted anew (REL-18)."""

    def row(name: str) -> str:
        cells = ["7", "COMPLETED", "0:0", "1", "2", "3", "p", "n", name, ""]
        return "".join(cell + SEPARATOR for cell in cells) + "\n"

    jobs = accounting.parse(row("old") + row("new") + row("new"), SEPARATOR)
    assert [(job.name, job.attempt) for job in jobs] == [("old", 0), ("new", 0), ("new", 1)]


def test_one_call(fake: Fake) -> None:
    """A history is one sacct: duplicates, steps, all states, an explicit start without a time zone."""
    argv = accounting.sacct_argv("<s>", 1795504986.7, 1000)
    assert argv[:5] == ["sacct", "-u", "1000", "-S", "uts1795504986"]
    assert "--duplicates" in argv
    assert "-X" not in argv
    fields = " ".join(accounting._FIELDS)
    runner = fake(
        sacct='for each; do case "$each" in --delimiter=*) s="${each#*=}";; esac; done; '
        f'for field in {fields}; do printf "%s%s" "$field" "$s"; done; echo'
    )
    seen = accounting.history(runner, since=1.0)
    assert (seen.available, seen.at, [job.job_id for job in seen.jobs]) == (True, 1000.0, ["JobID"])
    assert runner.calls["sacct"].count == 1


def test_no_accounting(fake: Fake) -> None:
    """A site without accounting, or without sacct, has no history, which is not an error."""
    runner = fake(sacct="echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert not accounting.history(runner, since=1.0).available
    assert accounting.find_token(runner, "hp-x", since=1.0) == ()


def test_no_sacct(fake: Fake) -> None:
    """Without the sacct command nothing is called."""
    runner = fake(squeue="exit 0")
    assert not accounting.history(runner, since=1.0).available
    assert not runner.calls


def test_database_away(fake: Fake) -> None:
    """A slurmdbd that refuses, hangs, or answers in another shape is an error, never an empty history."""
    refused = next(
        q["stderr"] for q in json.loads(captured("failures.json"))["query"] if "database" in q["stderr"]
    )
    for lines in (
        f"cat >&2 <<'E'\n{refused}E\nexit 1",
        f"cat >&2 <<'E'\n{refused}E\nexit 0",
        "sleep 60",
        "echo '1|COMPLETED|'",
        "exit 1",
    ):
        with pytest.raises(SlurmUnavailableError):
            accounting.history(fake(sacct=lines, timeout=0.5), since=1.0)


def test_token_of() -> None:
    """The comment comes first; a rewritten or absent comment leaves the name."""
    token = "hp-" + "0" * 26
    assert records.token_of(token, "x") == token
    assert records.token_of("", f"run.{token}") == token
    assert records.token_of("rewritten by the site", token) == token
    assert records.token_of(f"{token}\n", "x") == ""
