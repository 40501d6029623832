"""The queue as slurmctld sees it: all of the user's jobs in one squeue, also those that ended minutes ago.

Refuses per-job queries: one call answers for every job, and an unknown id is no evidence (section 7, LOAD-2).
"""

from __future__ import annotations

from msgspec import Struct

from hpcpools import durations, textsafe
from hpcpools.slurm import records, states
from hpcpools.slurm.command import Runner

# squeue pads every field to its width and cuts at it; in bytes.
_FIELDS = (
    ("JobArrayID", 40),
    ("State", 32),
    ("exit_code", 16),
    ("RestartCnt", 12),
    ("SubmitTime", 24),
    ("StartTime", 24),
    ("EndTime", 24),
    ("TimeLimit", 24),
    ("Partition", 128),
    ("NodeList", 128),
    ("Reason", 96),
    ("Name", 160),
    ("Comment", 64),
)


class Job(Struct, frozen=True):
    """One job, or one element of an array, as squeue shows it now.

    ``job_id`` is ``123`` or ``123_4``; ``state`` is Slurm's long word. Times are epoch seconds: ``start`` is
    None until it started; ``end``, ``exit_code`` and ``signal`` are None until it ended, and never are the
    last two both set. ``expected`` is Slurm's forecast of the start of a job that waits. Texts are safe to
    print.
    """

    job_id: str
    token: str
    name: str
    state: str
    reason: str = ""
    nodes: str = ""
    restarts: int = 0
    exit_code: int | None = None
    signal: int | None = None
    submit: float | None = None
    start: float | None = None
    end: float | None = None
    partition: str = ""
    time_limit_min: int | None = None
    expected: float | None = None


class Snapshot(Struct, frozen=True):
    """The user's jobs at ``at`` (epoch seconds, taken before the question: the answer is no older).

    ``took``: how many seconds the answer took.
    """

    at: float
    jobs: tuple[Job, ...]
    took: float = 0.0


def snapshot(runner: Runner) -> Snapshot:
    """Exactly one ``squeue``. Raises SlurmUnavailableError."""
    at, separator = runner.clock(), records.new_separator()
    jobs = parse(runner.run(squeue_argv(separator)), separator)
    return Snapshot(at, jobs, runner.calls["squeue"].last)


def find_token(runner: Runner, token: str, *, max_age: float = 0.0) -> tuple[Job, ...]:
    """The jobs of a run, oldest first: none, one, or the elements of its array. At most one ``squeue``.

    ``max_age``: how old, in seconds, an earlier answer to this runner may be; many look-ups then cost one.
    """
    kept = runner.answers.get("squeue")
    if not isinstance(kept, Snapshot) or runner.clock() - kept.at >= max_age:
        kept = runner.answers["squeue"] = snapshot(runner)
    return tuple(job for job in kept.jobs if job.token == token)


def squeue_argv(separator: str) -> list[str]:
    """The command whose output :func:`parse` reads with the same ``separator``."""
    layout = ",".join(f"{name}:{width}{separator}" for name, width in _FIELDS)
    return ["squeue", "--me", "--states=all", "--array", "--noheader", "--sort=i", "-O", layout]


def parse(text: str, separator: str) -> tuple[Job, ...]:
    """The jobs in squeue's answer. Raises SlurmUnavailableError if it has another shape."""
    return tuple(map(_job, records.split(text, separator, [name for name, _ in _FIELDS])))


def _job(row: dict[str, str]) -> Job:
    state = states.state_word(row["State"])
    phase = states.meaning(state).phase
    nodes = textsafe.one_line(records.word(row["NodeList"]))
    exit_code, signal = records.exit_status(state, row["exit_code"])
    return Job(
        job_id=textsafe.one_line(row["JobArrayID"]),
        token=records.token_of(row["Comment"], row["Name"]),
        name=textsafe.one_line(row["Name"]),
        state=state,
        reason=textsafe.one_line(records.word(row["Reason"])),
        nodes=nodes,
        restarts=int(row["RestartCnt"]) if row["RestartCnt"].isdecimal() else 0,
        exit_code=exit_code,
        signal=signal,
        submit=records.moment(row["SubmitTime"]),
        start=records.moment(row["StartTime"]) if nodes and phase != "pending" else None,
        end=records.moment(row["EndTime"]) if phase == "ended" else None,
        partition=textsafe.one_line(row["Partition"]),
        time_limit_min=durations.slurm_minutes(row["TimeLimit"]),
        expected=records.moment(row["StartTime"]) if phase == "pending" else None,
    )
