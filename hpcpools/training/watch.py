"""The one look at Slurm for all live runs, shared by every reader through a small cache file.

Owns the polling budget: one squeue per poll, one sacct only when jobs vanished or ended unexplained,
backoff on errors. State is never invented: when Slurm is silent, what was known stays, with its age.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict, replace

from hpcpools import atomic
from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError
from hpcpools.runs import batches, directory, sweeps
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.states import RunState
from hpcpools.runs.view import Change, Sighting, View, decide, read_view
from hpcpools.slurm import accounting, queue
from hpcpools.slurm.bucket import Bucket
from hpcpools.slurm.command import Runner
from hpcpools.training import engine, localruns, restart

SACCT_INTERVAL = 60.0
BACKOFF_LIMIT = 600.0
FRESH_EVERY = 10.0  # seconds between two answers that a user may ask for out of turn
SLOWEST = 300.0  # seconds: the longest interval of a Slurm that answers


class Poll(Struct):
    """The cache: when Slurm last answered, what it listed, who is missing since when, and the backoff."""

    at: float = 0.0
    sacct_at: float = 0.0
    accounting: bool | None = None  # whether the site keeps accounts; None: not asked yet
    failures: int = 0
    next_try: float = 0.0
    interval: float = 0.0  # seconds after which the answer is old
    error: str = ""
    listed: dict[str, str] = {}  # token → reason
    waiting: dict[str, dict[str, Any]] = {}  # token → partition, expected start
    absent: dict[str, float] = {}  # token → first poll without it
    batches: dict[str, dict[str, Any]] = {}  # the lane's: token → its Slurm job


class Watch(Struct, frozen=True):
    """Live runs (and those that just ended), and how fresh Slurm's part of it is."""

    views: tuple[View, ...]
    ended: tuple[View, ...]
    as_of: float | None
    error: str


def current(config: Config, *, fresh: bool = False, slurm: bool = False) -> Watch:
    """The live runs for somebody who looks, brought up to date.

    All readers share one answer of Slurm until it is old; ``fresh`` asks again, at most once in 10 s per
    user. ``slurm``: the caller knows that Slurm is here; otherwise that is asked only if something is live.
    """
    if not config.root.is_dir():
        return Watch((), (), None, "")
    runner = engine.runner(config)
    if not slurm and (directory.live_tokens(config.root) or batches.live(config.root)):
        slurm = runner.available()
    max_age = 0.0 if fresh and may_ask(config) else None
    return refresh(config, runner if slurm else None, max_age=max_age)


def refresh(
    config: Config, runner: Runner | None, *, max_age: float | None = None, now: float | None = None
) -> Watch:
    """Bring every live run up to date; ask Slurm only if the last answer is older than ``max_age`` s.

    ``max_age`` None: than the interval that all readers share.
    ``runner`` None: files only. Costs at most one squeue and one sacct, whatever the number of runs.
    """
    now, root = time.time() if now is None else now, config.root
    runs = []
    for token in directory.live_tokens(root):
        if not directory.drop_stale_live_mark(root, token, now):
            run = RunDirectory(root, token)
            with contextlib.suppress(HpcpoolsError):
                runs.append((run, read_view(run)))
    ended = []
    live = []
    for run, view in runs:
        if view.state.is_final or _died_here(view):
            ended.append(localruns.close(run) if localruns.here(view) else _settle(config, run, view))
        else:
            live.append((run, view))
    poll = load_poll(config.root)
    wanted = [(r, v) for r, v in live if v.request.engine == "slurm" and not v.restart_kind]
    asked = False
    if (wanted or batches.live(config.root)) and runner is not None and _due(config, poll, max_age, now):
        with _poll_lock(config.root) as mine:
            asked = True
            poll = load_poll(config.root)  # another reader may just have asked
            if mine and _due(config, poll, max_age, now):
                poll = _poll(config, runner, wanted, poll, now)
                _save(config.root, poll)
    views = []
    for run, old in live:
        view = read_view(run) if asked else old
        if view.state.is_final:
            ended.append(view)
        elif view.token in poll.listed and poll.at > view.as_of:
            views.append(replace(view, as_of=poll.at))
        else:
            views.append(view)
    return Watch(tuple(views), tuple(ended), poll.at or None, poll.error)


def pace(floor: float, took: float, luck: float) -> float:
    """Seconds from a poll to the next: five times what the last one took, within limits, ±20 % by ``luck``.

    ``luck`` is from 0 to 1; it keeps pools that were started together from asking together.
    """
    return min(max(floor, 5 * took), max(floor, SLOWEST)) * (0.8 + 0.4 * luck)


def may_ask(config: Config) -> bool:
    """True at most once in ten seconds for a user on this host: the turn to ask before the shared one."""
    folder = config.machine_dir
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Bucket(folder / "fresh.bucket", rate=1 / FRESH_EVERY, burst=1).take()


def _due(config: Config, poll: Poll, max_age: float | None, now: float) -> bool:
    wait = (poll.interval or float(config.slurm.poll_interval)) if max_age is None else max_age
    return now - poll.at >= wait and now >= poll.next_try


def load_poll(root: Path) -> Poll:
    """The cache; empty if there is none or it is not readable."""
    with contextlib.suppress(ValueError, TypeError):
        facts = atomic.read_json(root / ".poll.json")
        if isinstance(facts, dict):
            return Poll(**facts)
    return Poll()


def _save(root: Path, poll: Poll) -> None:
    atomic.write_json(root / ".poll.json", asdict(poll))


@contextlib.contextmanager
def _poll_lock(root: Path) -> Iterator[bool]:
    """True for one process at a time; a second one uses the cache. Only politeness depends on it."""
    fd = os.open(root / ".poll.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
    finally:
        os.close(fd)


def _poll(
    config: Config, runner: Runner, wanted: list[tuple[RunDirectory, View]], poll: Poll, now: float
) -> Poll:
    try:
        snapshot = queue.snapshot(runner)
    except HpcpoolsError as error:
        failures = poll.failures + 1
        wait = min(BACKOFF_LIMIT, float(config.slurm.poll_interval) * 2 ** min(failures - 1, 8))
        return replace(poll, failures=failures, next_try=now + wait, error=error.message)
    jobs: dict[str, list[queue.Job]] = {}
    for each in sweeps.resolved(config.root, snapshot.jobs):
        jobs.setdefault(each.token, []).append(each)
    interval = pace(float(config.slurm.poll_interval), snapshot.took, random.random())  # noqa: S311
    fresh = Poll(at=snapshot.at, sacct_at=poll.sacct_at, accounting=poll.accounting)
    fresh.interval = snapshot.took + interval
    for token in batches.live(config.root):
        if token in jobs:
            fresh.batches[token] = _facts(jobs[token][0])
        else:
            fresh.absent[token] = poll.absent.get(token, snapshot.at)
    unexplained: list[tuple[RunDirectory, View, queue.Job | None]] = []
    for run, view in wanted:
        job: queue.Job | None = _own_job(run, view, jobs.get(view.token, []))
        current = view
        if job is None:
            fresh.absent[view.token] = poll.absent.get(view.token, snapshot.at)
            if view.state is not RunState.SUBMITTING:
                unexplained.append((run, view, None))
            continue
        fresh.listed[view.token] = job.reason
        fresh.waiting[view.token] = {"partition": job.partition, "expected": job.expected}
        if view.state is RunState.SUBMITTING:
            _adopt(run, view, job, snapshot.at)
            current = read_view(run)
        change = _decide(config, current, _sighting(job, snapshot.at))
        if change is not None and change.state is RunState.FAILED and current.attempt is not None:
            unexplained.append((run, current, job))  # the steps may tell that memory was the cause
        else:
            _record(config, run, current, change, snapshot.at)
    if unexplained:
        _explain(config, runner, unexplained, fresh, snapshot.at)
    return fresh


def _explain(
    config: Config,
    runner: Runner,
    runs: list[tuple[RunDirectory, View, queue.Job | None]],
    poll: Poll,
    at: float,
) -> None:
    """One sacct for all jobs that vanished or failed without telling why; squeue's word where it is mute."""
    if at - poll.sacct_at < SACCT_INTERVAL and poll.accounting is not False:
        return  # their turn comes; until then nothing is known
    found: dict[str, list[accounting.AccountedJob]] = {}
    if poll.accounting is not False:
        poll.sacct_at = at
        try:
            history = accounting.history(runner, min(view.request.created for _, view, _ in runs) - 60)
        except HpcpoolsError as error:
            poll.error = error.message
            return  # accounting is silent: absence from squeue alone proves nothing
        poll.accounting = history.available
        for record in sweeps.resolved(config.root, history.jobs):
            found.setdefault(record.token, []).append(record)
    for run, view, listed in runs:
        records = [record for record in found.get(view.token, []) if record.job_id == view.job_id]
        if records:
            seen = _accounted(records[-1], listed, at, poll.absent.get(view.token))
        elif listed is not None:
            seen = _sighting(listed, at)
        else:
            seen = Sighting(at, absent_since=poll.absent.get(view.token))
        _record(config, run, view, _decide(config, view, seen), at)


def _facts(job: queue.Job) -> dict[str, Any]:
    """What the lane wants to know of a batch's job."""
    return {name: getattr(job, name) for name in ("job_id", "state", "reason", "nodes", "expected")}


def _own_job(run: RunDirectory, view: View, jobs: list[queue.Job]) -> queue.Job | None:
    """The run's job among those that carry its token; a reused id without the token is none of ours."""
    if not view.job_id:
        new = [job for job in jobs if job.job_id not in run.job_ids()] if jobs else []
        return min(new, key=lambda job: job.submit or 0.0, default=None)
    return next((job for job in jobs if job.job_id == view.job_id), None)


def _sighting(job: queue.Job, at: float) -> Sighting:
    reason = "" if job.reason == "None" else job.reason
    return Sighting(at, job.state, reason, job.exit_code, job.signal, job.end, listed=True)


def _accounted(
    record: accounting.AccountedJob, job: queue.Job | None, at: float, absent_since: float | None
) -> Sighting:
    return Sighting(
        at,
        record.state,
        "" if job is None else job.reason,
        record.exit_code,
        record.signal,
        record.end,
        listed=job is not None,
        absent_since=absent_since,
        step_out_of_memory=record.out_of_memory,
    )


def _decide(config: Config, view: View, seen: Sighting) -> Change | None:
    return decide(
        view,
        seen,
        lost_after=float(config.slurm.lost_after),
        provisional_for=float(config.slurm.provisional_for),
    )


def _record(config: Config, run: RunDirectory, view: View, change: Change | None, at: float) -> None:
    if change is not None:
        restart.conclude(run, view, change, at, float(config.restarts.first_delay))


def _adopt(run: RunDirectory, view: View, job: queue.Job, at: float) -> None:
    run.submitted(max(0, view.submission), job.job_id, "", at)
    run.record(RunState.PENDING, at, job_id=job.job_id, reason="found in the queue")


def _died_here(view: View) -> bool:
    """A local training whose process is gone, whoever was to watch it."""
    return localruns.here(view) and localruns.started(view) and not localruns.alive(view)


def _settle(config: Config, run: RunDirectory, view: View) -> View:
    """The node's end marker is there: write the end into the events, which ends the watch over the run."""
    change = Change(view.state, view.detail, view.cause, view.exit_code, view.reason)
    _record(config, run, view, change, view.since)
    return read_view(run)
