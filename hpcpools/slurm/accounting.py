"""What slurmdbd remembers: every attempt of the user's jobs with its steps, in one sacct.

Asked only for jobs that left the queue. Refuses ``-X``: the step, not the job, says OUT_OF_MEMORY.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from hpcpools import textsafe
from hpcpools.slurm import records, states
from hpcpools.slurm.command import Runner, unavailable

_FIELDS = (
    "JobID",
    "State",
    "ExitCode",
    "Submit",
    "Start",
    "End",
    "Partition",
    "NodeList",
    "JobName",
    "Comment",
)
# Left to itself, sacct hides what was cancelled before it could have started (held, dependency, begin time).
_ALL_STATES = "BF,CA,CD,DL,F,NF,OOM,PD,PR,R,RQ,RS,RV,S,TO"
_ARRAY = re.compile(r"(\d+)_\[([^\]%]*)(?:%\d+)?\]")
_RANGE = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?")
_DISABLED = "accounting storage is disabled"


class Step(Struct, frozen=True):
    """One step: ``batch``, ``extern`` or a number; its exit code or signal, never both."""

    name: str
    state: str
    exit_code: int | None
    signal: int | None


class AccountedJob(Struct, frozen=True):
    """One attempt of a job. ``attempt`` counts those of the same job in this answer, from 0, oldest first.

    Times are epoch seconds; texts are safe to print.
    """

    job_id: str
    attempt: int
    token: str
    name: str
    state: str
    exit_code: int | None
    signal: int | None
    nodes: str
    partition: str
    submit: float | None
    start: float | None
    end: float | None
    steps: tuple[Step, ...]

    @property
    def out_of_memory(self) -> bool:
        """True if the job or a step ran out of memory: a job whose srun step did says FAILED 1:0."""
        return "OUT_OF_MEMORY" in (self.state, *(step.state for step in self.steps))


class History(Struct, frozen=True):
    """Accounting's answer at ``at`` (epoch seconds); not ``available`` where the site keeps none."""

    available: bool
    jobs: tuple[AccountedJob, ...]
    at: float


def history(runner: Runner, since: float, *, uid: int | None = None) -> History:
    """The attempts that existed at or after ``since`` (epoch seconds); ``uid`` is ours by default.

    One ``sacct``. Raises SlurmUnavailableError if slurmdbd is down or does not answer in time.
    """
    at, separator = runner.clock(), records.new_separator()
    if not runner.has("sacct"):
        return History(False, (), at)
    done = runner.finish(sacct_argv(separator, since, os.getuid() if uid is None else uid))
    if done.code is not None and _DISABLED in done.stderr + done.stdout:
        return History(False, (), at)
    if done.code != 0 or "Problem talking to the database" in done.stderr:
        raise unavailable("sacct", done)
    return History(True, parse(done.stdout, separator), at)


def find_token(runner: Runner, token: str, since: float, *, max_age: float = 0.0) -> tuple[AccountedJob, ...]:
    """All attempts of a run that accounting knows, oldest first; none where the site keeps no accounting.

    ``max_age``: how old, in seconds, an earlier answer to this runner may be that reaches back as far.
    """
    kept = runner.answers.get("sacct")
    if kept is None or kept[0] > since or runner.clock() - kept[1].at >= max_age:
        kept = runner.answers["sacct"] = (since, history(runner, since))
    return tuple(job for job in kept[1].jobs if job.token == token)


def sacct_argv(separator: str, since: float, uid: int) -> list[str]:
    """The command whose output :func:`parse` reads with the same ``separator``."""
    # Without -S sacct begins at midnight; "uts" is its only time that has no time zone.
    window = ["-u", str(uid), "-S", f"uts{max(1, int(since))}", "-E", "now", "-s", _ALL_STATES]
    layout = ["--noheader", "--parsable", f"--delimiter={separator}", "-o", ",".join(_FIELDS)]
    return ["sacct", *window, "--duplicates", *layout]


def parse(text: str, separator: str) -> tuple[AccountedJob, ...]:
    """The attempts in sacct's answer, with their steps. Raises SlurmUnavailableError for any other shape."""
    found: list[AccountedJob] = []
    seen: Counter[tuple[str, str]] = Counter()
    for row in records.split(text, separator, _FIELDS):
        base, _, step = row["JobID"].partition(".")
        if step and found and found[-1].job_id == base:
            found[-1] = replace(found[-1], steps=(*found[-1].steps, _step(step, row)))
        elif not step:
            for job_id in _elements(base):
                same = (job_id, row["JobName"])  # ids may start again one day, names hold the token
                found.append(_job(job_id, seen[same], row))
                seen[same] += 1
    return tuple(found)


def _job(job_id: str, attempt: int, row: dict[str, str]) -> AccountedJob:
    state = states.state_word(row["State"])
    exit_code, signal = records.exit_status(state, row["ExitCode"])
    return AccountedJob(
        job_id=textsafe.one_line(job_id),
        attempt=attempt,
        token=records.token_of(row["Comment"], row["JobName"]),
        name=textsafe.one_line(row["JobName"]),
        state=state,
        exit_code=exit_code,
        signal=signal,
        nodes=textsafe.one_line(records.word(row["NodeList"])),
        partition=textsafe.one_line(row["Partition"]),
        submit=records.moment(row["Submit"]),
        start=records.moment(row["Start"]),
        end=records.moment(row["End"]),
        steps=(),
    )


def _step(name: str, row: dict[str, str]) -> Step:
    state = states.state_word(row["State"])
    return Step(textsafe.one_line(name), state, *records.exit_status(state, row["ExitCode"]))


def _elements(job_id: str) -> Iterator[str]:
    """``7_[1-2,5%2]``, elements that never started, as ``7_1 7_2 7_5``; any other id as it is."""
    array = _ARRAY.fullmatch(job_id)
    if array is None:
        yield job_id
        return
    for first, last, step in _RANGE.findall(array.group(2)):
        for index in range(int(first), int(last or first) + 1, int(step or 1) or 1):
            yield f"{array.group(1)}_{index}"
