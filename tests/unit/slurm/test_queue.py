"""squeue: one call, every field in its place, whatever the names hold."""

from __future__ import annotations

import random

import pytest

from hpcpools.errors import SlurmUnavailableError
from hpcpools.slurm import queue, records
from tests.unit.slurm import SEPARATOR, captured
from tests.unit.slurm.conftest import Fake

JOBS = {job.job_id: job for job in queue.parse(captured("squeue.txt"), SEPARATOR)}
WIDTHS = [width for _, width in queue._FIELDS]
TOKEN = "hp-" + "0123456789abcdefghjkmnpqrs"


def line(name: str, comment: str = "", state: str = "RUNNING", job_id: str = "7", separator: str = "") -> str:
    """A record as squeue prints it: every field padded to its width, in bytes, and cut there."""
    cells = [job_id, state, "0", "2", "1000", "1010", "2000", "1:00:00", "gpu", "n1", "None", name, comment]
    padded = (
        cell.encode()[:width].ljust(width).decode(errors="replace")
        for cell, width in zip(cells, WIDTHS, strict=True)
    )
    return "".join(cell + (separator or SEPARATOR) for cell in padded) + "\n"


def test_ended_jobs() -> None:
    """Exit codes and signals are told apart; a job that a signal ended has no exit code."""
    assert [(JOBS[i].state, JOBS[i].exit_code, JOBS[i].signal) for i in ("37", "38", "39", "40")] == [
        ("COMPLETED", 0, None),
        ("FAILED", 3, None),
        ("FAILED", 137, None),
        ("FAILED", None, 9),
    ]
    assert (JOBS["37"].start, JOBS["37"].end, JOBS["37"].nodes) == (1795504986.0, 1795504986.0, "c1")


def test_forecasts_are_left_out() -> None:
    """squeue forecasts the end of running and the start of pending jobs; a Job holds only what happened."""
    running, pending, never = JOBS["35"], JOBS["43"], JOBS["53_3"]
    assert (running.state, running.end, running.exit_code) == ("RUNNING", None, None)
    assert running.start is not None
    assert (pending.state, pending.reason, pending.start, pending.end) == ("PENDING", "BeginTime", None, None)
    assert (never.state, never.start, never.exit_code) == ("CANCELLED", None, None)


def test_restarts_and_limits() -> None:
    """A job requeued after a node failure says so; an unlimited job has no limit."""
    assert (JOBS["35"].restarts, JOBS["35"].time_limit_min) == (1, None)
    assert (JOBS["37"].restarts, JOBS["37"].time_limit_min) == (0, 120)
    assert JOBS["34"].time_limit_min == 365 * 1440


def test_array_elements() -> None:
    """Every element of an array is a job of its own, pending ones too, and all hold the run's token."""
    elements = {i: job.state for i, job in JOBS.items() if i.startswith("52_")}
    assert elements == {
        "52_0": "RUNNING",
        "52_2": "RUNNING",
        **dict.fromkeys(("52_4", "52_6", "52_8"), "PENDING"),
    }
    assert len({JOBS[i].token for i in elements} - {""}) == 1


def test_tokens() -> None:
    """The token is the comment, or the one token in the name; look-alikes are none."""
    assert JOBS["41"].name == f"resnet.{JOBS['41'].token}"
    assert JOBS["45"].token == ""  # its comment only holds a token
    assert JOBS["56"].token == ""
    for name, found in (
        (f"run_{TOKEN}", TOKEN),
        (f"hp-run-{TOKEN}", TOKEN),
        (f"{TOKEN}.{TOKEN}", ""),
        (f"x{TOKEN}", ""),
        (f"{TOKEN}0", ""),
        (TOKEN.upper(), ""),
    ):
        assert queue.parse(line(name), SEPARATOR)[0].token == found, name


def test_long_reasons() -> None:
    """Reasons of several words keep their commas."""
    assert JOBS["58"].reason == "ReqNodeNotAvail, UnavailableNodes:m3"


def test_real_hostile_names() -> None:
    """Names that the real squeue printed raw (newline, bar, ESC, CJK) shift nothing and print safely."""
    assert JOBS["45"].name == "a|b;c,d :x"
    assert JOBS["46"].name == r"n\n99|RUNNING|"
    assert JOBS["47"].name == r"\x0d\x1b]0;owned\x07"
    assert JOBS["48"].name == "ünïcödé名前"
    assert all(JOBS[i].state == "COMPLETED" and JOBS[i].nodes == "c1" for i in ("45", "46", "47", "48", "49"))
    assert "99" not in JOBS
    assert "98" not in JOBS


def test_random_hostile_names() -> None:
    """2000 random names and comments out of the worst pieces: always the same jobs in the same states."""
    rng = random.Random(7)
    pieces = [
        "|",
        "\n",
        "\r",
        "\t",
        " ",
        "<~",
        ">",
        "<~0123456789abcdee>",
        "\x1b[31m",
        "é",
        "名",
        "7",
        ",",
        ":",
    ]
    pieces += [
        TOKEN,
        "COMPLETED",
        "%",
        "\\",
        "'",
        '"',
        "\u202e",
        "\x00",
        "<~" + " " * 30,
        line("forged")[:80],
    ]
    for _ in range(2000):
        separator = records.new_separator()
        first, second = ("".join(rng.choices(pieces, k=rng.randrange(12))) for _ in range(2))
        text = line(first, second, separator=separator) + line(second, first, "PENDING", "8", separator)
        jobs = queue.parse(text, separator)
        assert [(j.job_id, j.state, j.restarts, j.nodes) for j in jobs] == [
            ("7", "RUNNING", 2, "n1"),
            ("8", "PENDING", 2, "n1"),
        ]
        assert all(printable.isprintable() for job in jobs for printable in (job.name, job.reason))


def test_separators_differ() -> None:
    """No two calls use the same separator: it cannot be written into a name beforehand."""
    assert len({records.new_separator() for _ in range(1000)}) == 1000


def test_other_shapes() -> None:
    """An empty queue is empty; noise before the records is skipped; half a record is an error, not a job."""
    assert queue.parse("", SEPARATOR) == ()
    assert queue.parse("\n", SEPARATOR) == ()
    assert queue.parse("site news\n" + line("a"), SEPARATOR)[0].job_id == "7"
    for text in (line("a")[:200], line("a") + "slurm_load_jobs error", "JOBID PARTITION"):
        with pytest.raises(SlurmUnavailableError, match="fields"):
            queue.parse(text, SEPARATOR)


def test_status_forms() -> None:
    """The exit status is a raw wait status (22.05) or code:signal; 0 counts only for COMPLETED."""
    for state, cell, found in (
        ("FAILED", "768", (3, None)),
        ("FAILED", "9", (None, 9)),
        ("FAILED", "3:0", (3, None)),
        ("CANCELLED", "0:15", (None, 15)),
        ("OUT_OF_MEMORY", "0:125", (None, 125)),
        ("TIMEOUT", "0:0", (None, None)),
        ("NODE_FAIL", "0", (None, None)),
        ("COMPLETED", "0", (0, None)),
        ("RUNNING", "0:0", (None, None)),
        ("FAILED", "", (None, None)),
        ("FAILED", "x:1", (None, None)),
        ("SOMETHING_NEW", "0:0", (None, None)),
    ):
        assert records.exit_status(state, cell) == found, (state, cell)


def test_snapshot_is_one_call(fake: Fake) -> None:
    """All jobs are one squeue of ours in all states; its time is the time of the question."""
    # The fake cuts the separator out of the -O argument, as squeue does.
    runner = fake(
        squeue='echo "$@" > "$WORK/argv"; for last; do :; done; sep="${last##*:64}"; '
        + "".join(f'printf "%s%s" "{cell}" "$sep"; ' for cell in line(TOKEN).strip().split(SEPARATOR)[:-1])
    )
    seen = queue.snapshot(runner)
    assert (seen.at, [job.job_id for job in seen.jobs]) == (1000.0, ["7"])
    assert runner.calls["squeue"].count == 1
    assert queue.find_token(runner, TOKEN) == seen.jobs
    assert queue.find_token(runner, TOKEN[:-1] + "z") == ()


def test_squeue_fails(fake: Fake) -> None:
    """A controller that does not answer is an error, never an empty queue."""
    text = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    with pytest.raises(SlurmUnavailableError, match="connect failure"):
        queue.snapshot(fake(squeue=f"echo '{text}' >&2; exit 1"))
