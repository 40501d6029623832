"""The fake's squeue and sacct: answers from the world, in the layout that was asked for."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence

from hpcpools.errors import UsageError
from hpcpools.testing.accounting import ACCOUNTING, Record, records
from hpcpools.testing.dependencies import NEVER
from hpcpools.testing.formats import JOB, LETTERS, SHORT, Column, Row, long_layout, short_layout
from hpcpools.testing.words import parse, values
from hpcpools.testing.world import Job, World

Env = Mapping[str, str]


# --- squeue ------------------------------------------------------------------------------------------------

_SQUEUE_VALUES = {
    "format": "o", "Format": "O", "job": "", "jobs": "j", "name": "n", "partition": "p", "sort": "S",
    "states": "t", "state": "", "user": "u",
}  # fmt: skip
_SQUEUE_FLAGS = {"all": "a", "array": "r", "me": "", "noheader": "h", "long": "l"}
_DEFAULT = "%.18i %.9P %.8j %.8u %.2t %.10M %.6D %R"
_LONG = "%.18i %.9P %.8j %.8u %.8T %.10M %.9l %.6D %R"


def squeue(world: World, words: Sequence[str], env: Env) -> int:
    """One call; its exit code."""
    asked, _ = parse(words, _SQUEUE_VALUES, _SQUEUE_FLAGS)
    if asked.get("sort", "i") != "i":
        raise UsageError("Invalid sort specification", hint="the fake Slurm knows only --sort=i")
    lagging = world.before if "squeue" in world.faults.lagging else None
    jobs = world.jobs if lagging is None else lagging
    wanted = list(values(asked.get("jobs", asked.get("job", ""))))
    if wanted and not any(_named(job, wanted) for job in jobs):
        print("slurm_load_jobs error: Invalid job id specified", file=sys.stderr)
        return 1
    states = _states(asked.get("states", asked.get("state", "")))
    chosen = [
        job
        for job in jobs
        if (not wanted or _named(job, wanted))
        and (not states or job.state in states or job.word in states)
        and (not asked.get("partition") or job.spec.partition in values(asked["partition"]))
        and (not asked.get("name") or job.spec.name in values(asked["name"]))
    ]
    rows = _rows(chosen, world, env, group="array" not in asked)
    if "sort" in asked:
        rows.sort(key=lambda row: (row.job.array or row.job.id, row.job.index or 0))
    head, columns = _layout(asked)
    if "noheader" not in asked:
        print(
            head + "".join(column.write(_HEADS.get(column.name, column.name.upper())) for column in columns)
        )
    for row in rows:
        print(head + "".join(column.write(JOB[column.name](row)) for column in columns))
    return 0


_HEADS = {
    "jobarrayid": "JOBID", "username": "USER", "statecompact": "ST", "timeused": "TIME", "numnodes": "NODES",
    "reasonlist": "NODELIST(REASON)", "timelimit": "TIME_LIMI",
}  # fmt: skip


def _layout(asked: Mapping[str, str]) -> tuple[str, list[Column]]:
    if "Format" in asked:
        return "", long_layout(asked["Format"], JOB)
    return short_layout(asked.get("format", _LONG if "long" in asked else _DEFAULT), LETTERS)


def _states(text: str) -> set[str]:
    """Which to show: without a word those that wait, run or are completing."""
    if text.lower() == "all":
        return set()
    by_short = {short: word for word, short in SHORT.items()}
    named = {by_short.get(part.upper(), part.upper()) for part in values(text)}
    if unknown := named - set(SHORT):
        raise UsageError(f"Invalid job state specified: {','.join(unknown)}", hint="see squeue(1)")
    return named or {"PENDING", "RUNNING", "COMPLETING"}


def _named(job: Job, wanted: Sequence[str]) -> bool:
    return bool({str(job.id), str(job.array), job.shown_id} & set(wanted))


def _rows(jobs: Sequence[Job], world: World, env: Env, *, group: bool) -> list[Row]:
    """Elements of an array that have waited since their submission stand together."""
    found: list[Row] = []
    at: dict[tuple[int, str], int] = {}
    for job in jobs:
        waits = job.index is not None and job.state == "PENDING" and not job.restarts
        if not (group and waits) or job.index is None:
            found.append(Row(job, world, env))
            continue
        key = (job.array, job.reason)
        if key in at:
            first = found[at[key]]
            found[at[key]] = Row(first.job, world, env, (*first.elements, job.index))
        else:
            at[key] = len(found)
            found.append(Row(job, world, env, (job.index,)))
    return found


# --- sacct -------------------------------------------------------------------------------------------------

_SACCT_VALUES = {
    "delimiter": "", "endtime": "E", "format": "o", "jobs": "j", "name": "", "starttime": "S", "state": "s",
    "user": "u",
}  # fmt: skip
_SACCT_FLAGS = {"allocations": "X", "duplicates": "D", "noheader": "n", "parsable": "p", "parsable2": "P"}
_SACCT_DEFAULT = "JobID,JobName,Partition,Account,AllocCPUS,State,ExitCode"


def sacct(world: World, words: Sequence[str], env: Env) -> int:
    """One call; its exit code."""
    asked, _ = parse(words, _SACCT_VALUES, _SACCT_FLAGS)
    fields = [name.partition("%")[0] for name in values(asked.get("format", _SACCT_DEFAULT))]
    if unknown := [name for name in fields if name.lower() not in ACCOUNTING]:
        raise UsageError(f'Invalid field requested: "{unknown[0]}"', hint="the fake Slurm does not know it")
    if not world.cluster.accounting:
        print("Slurm accounting storage is disabled", file=sys.stderr)
        return 1
    since = _since(asked.get("starttime", ""), world)
    jobs = [job for job in _attempts(world) if since is None or not job.end or job.end >= since or job.placed]
    if wanted := list(values(asked.get("jobs", ""))):
        jobs = [job for job in jobs if _named(job, wanted)]
    if "duplicates" not in asked:
        jobs = list({job.shown_id: job for job in jobs}.values())
    lines = records(_rows(jobs, world, env, group=True))
    states = {part.upper() for part in values(asked.get("state", ""))}
    shown = [line for line in lines if "allocations" not in asked or not line.step]
    for cells in _cells(shown, fields, states, header="noheader" not in asked):
        print(_line(cells, asked))
    return 0


def _attempts(world: World) -> list[Job]:
    """What accounting knows, in the order of ids, oldest attempt first."""
    lagging = "sacct" in world.faults.lagging and world.before is not None
    past = (world.before_past or []) if lagging else world.past
    jobs = (world.before or []) if lagging else world.jobs
    live = [job for job in jobs if job.placed or (job.state == "PENDING" and _eligible(job))]
    return sorted([*past, *live], key=lambda job: (job.array or job.id, job.index or 0, job.restarts))


def _eligible(job: Job) -> bool:
    """Accounting first hears of a job when it could start but for the nodes."""
    not_yet = ("BeginTime", "Dependency", "JobArrayTaskLimit", NEVER)
    return bool(job.restarts) or (not job.held and job.reason not in not_yet)


def _since(text: str, world: World) -> float | None:
    """``uts`` and epoch seconds, on our clock: the caller's went on while ours stood."""
    if not text.startswith("uts") or not text[3:].isdecimal():
        return None
    return int(text[3:]) - max(0.0, time.time() - world.now)


def _cells(
    shown: Sequence[Record], fields: Sequence[str], states: set[str], *, header: bool
) -> list[list[str]]:
    head = [list(fields)] if header else []
    short = {**SHORT, "REQUEUED": "RQ"}
    kept = [
        line for line in shown if not states or {line.state, short.get(line.state, "")} & states or line.step
    ]
    return head + [[ACCOUNTING[name.lower()](line) for name in fields] for line in kept]


def _line(cells: Sequence[str], asked: Mapping[str, str]) -> str:
    delimiter = asked.get("delimiter", "|")
    if "parsable" in asked:
        return "".join(cell + delimiter for cell in cells)
    if "parsable2" in asked:
        return delimiter.join(cells)
    return "".join(f"{cell[:12]:<12} " for cell in cells)
