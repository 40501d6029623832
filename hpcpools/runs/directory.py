"""One run's directory: its file names, its creation, its events, its attempts' claims and end markers.

Owns every path below the root. Refuses directories of another owner and anything reached by a symlink.

    <root>/.live/<token>            one empty file per run that is not final
    <root>/.ended/<token>           ended, not yet classified by scan_failed_jobs
    <root>/<token>/run.json         the request                       (login node, once, before sbatch)
                   events.jsonl     state changes                     (login node only: one writer side)
                   cancel.json      someone asked for its end
                   submissions/N.json, N.job.json, N.owner.json       intent, Slurm's answer, who started
                   attempts/N.R/    start.json log.out log.err end.json  (compute node only)
                   metrics.jsonl  checkpoints/  result.json  submitit/  verdict.json
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpcpools import account, atomic
from hpcpools.errors import HpcpoolsError, NotFoundError, PermissionsError
from hpcpools.eventlog import event, log
from hpcpools.runs.request import Request, decode, digest, encode
from hpcpools.runs.states import RunState
from hpcpools.runs.token import check_token, is_token

MIN_FREE_BYTES = 64 * 1024 * 1024
MIN_FREE_INODES = 200


class _Below:
    """A path in the run's folder, made when it is asked for: a look at 1000 runs needs few of them."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __set_name__(self, _owner: type, attribute: str) -> None:
        self._attribute = attribute

    def __get__(self, run: RunDirectory, _owner: type) -> Path:
        path: Path = run.path / self._name
        run.__dict__[self._attribute] = path  # found before this from now on
        return path


class RunDirectory:
    """Paths and small durable facts of one run; holds no state of its own."""

    run_file = _Below("run.json")
    events_file = _Below("events.jsonl")
    metrics_file = _Below("metrics.jsonl")
    result_file = _Below("result.json")
    cancel_file = _Below("cancel.json")
    verdict_file = _Below("verdict.json")
    checkpoints = _Below("checkpoints")
    submitit = _Below("submitit")
    submissions = _Below("submissions")
    attempts = _Below("attempts")

    def __init__(self, root: Path, token: str) -> None:
        self.root = root
        self.token = check_token(token)
        self.path = root / token

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r})"

    @property
    def ended_mark(self) -> Path:
        """There while the run has ended and waits for its verdict."""
        return self.root / ".ended" / self.token

    @property
    def _live(self) -> Path:
        return self.root / ".live" / self.token

    def request(self) -> Request:
        """The request. Raises NotFoundError, PermissionsError, RefusedError (newer), HpcpoolsError."""
        return decode(self._run_bytes(), f"run {self.token}")

    def digest(self) -> str:
        """SHA-256 of ``run.json`` as it lies there."""
        return digest(self._run_bytes())

    def _run_bytes(self) -> bytes:
        try:
            check_owned(self.path)
            check_owned(self.run_file)
            return atomic.read_bytes(self.run_file)
        except FileNotFoundError:
            raise NotFoundError(
                f"no run {self.token} in {self.root}", hint="`hpcpools runs` lists the runs"
            ) from None

    def record(self, state: RunState, at: float, **facts: Any) -> None:
        """Append a state change to the events; a final state takes the run off the live list."""
        kept = {key: value for key, value in facts.items() if value not in ("", None)}
        atomic.append_line(self.events_file, {"at": at, "state": state.value, **kept})
        if state.is_final:
            with contextlib.suppress(FileNotFoundError):
                self._live.rename(self.ended_mark)
        if log.isEnabledFor(logging.INFO):  # a service, or somebody else who listens
            told = {name: facts.get(name) or None for name in ("cause", "reason", "detail")}
            log.info(event("state", **self.ids(), state=state.value, **told))

    def ids(self) -> dict[str, Any]:
        """By what events about it are joined: ``run``, and as far as known ``slurm_job`` and ``attempt``."""
        found: dict[str, Any] = {"run": self.token}
        unreadable = HpcpoolsError, OSError, ValueError, AttributeError
        with contextlib.suppress(*unreadable):
            number = self.last_submission()
            found["slurm_job"] = (self.owner(number) or self.job(number) or {}).get("job_id") or None
            found["attempt"] = sum(name[:1].isdigit() for name in _names(self.attempts)) or None
        return found

    def revive(self, at: float, state: RunState = RunState.PENDING, **facts: Any) -> None:
        """Put an ended run back on the live list, for a submission that the caller has taken."""
        atomic.create_bytes(self._live, b"")
        self.verdict_file.unlink(missing_ok=True)
        self.record(state, at, **facts)
        self.ended_mark.unlink(missing_ok=True)

    def events(self) -> list[dict[str, Any]]:
        """All state changes, oldest first."""
        return atomic.read_lines(self.events_file)

    def next_submission(self, at: float, *, after: int | None = None, **facts: Any) -> int | None:
        """Take the right to submit once more; its number, or None if another process was quicker.

        ``after``: the newest submission the caller knew when it decided; None for the newest there is.
        ``facts`` (kind of restart, nodes to exclude, changed arguments) are kept with it.
        """
        number = (self.last_submission() if after is None else after) + 1
        taken = atomic.create_json(self.submissions / f"{number}.json", {"at": at, **facts})
        return number if taken else None

    def submission(self, number: int) -> dict[str, Any]:
        """The facts of submission ``number``; empty if there is none."""
        return atomic.read_json(self.submissions / f"{number}.json") or {}

    def submitted(self, number: int, job_id: str, cluster: str, at: float) -> None:
        """Slurm acknowledged submission ``number`` as ``job_id``."""
        fact = {"job_id": job_id, "cluster": cluster, "at": at}
        atomic.write_json(self.submissions / f"{number}.job.json", fact)

    def job(self, number: int) -> dict[str, Any] | None:
        """``job_id``, ``cluster`` and ``at`` of submission ``number``; None before the acknowledgement."""
        found: dict[str, Any] | None = atomic.read_json(self.submissions / f"{number}.job.json")
        return found

    def job_ids(self) -> set[str]:
        """Slurm's ids of all submissions that were acknowledged."""
        jobs = (self.job(number) for number in range(self.last_submission() + 1))
        return {str(job["job_id"]) for job in jobs if job}

    def owner(self, number: int) -> dict[str, Any] | None:
        """The job that started first of submission ``number``; it owns the run (see attempts.claim)."""
        found: dict[str, Any] | None = atomic.read_json(self.submissions / f"{number}.owner.json")
        return found

    def last_submission(self) -> int:
        """The newest submission's number; -1 if there was none."""
        numbers = [-1]
        for name in _names(self.submissions):
            head, dot, tail = name.partition(".")
            if dot and tail == "json" and head.isdigit():
                numbers.append(int(head))
        return max(numbers)

    def is_live(self) -> bool:
        """True until its end is on record, for good."""
        return self._live.exists()

    def cancel(self, at: float) -> None:
        """Write down that someone asked for the end; a node that starts later will not run it."""
        atomic.create_json(self.cancel_file, {"at": at})

    def cancelled(self) -> bool:
        """True if someone asked for the end."""
        return self.cancel_file.exists()


def create(root: Path, request: Request) -> RunDirectory:
    """Make the run durable: the live mark, the directory, ``run.json``, the first event, all fsynced.

    Nothing stays behind if a step fails. Raises HpcpoolsError naming the file system when it is full or
    not writable.
    """
    run = RunDirectory(root, request.token)
    try:
        secure_root(root)
        _check_space(root)
        atomic.create_bytes(run._live, b"")
        run.path.mkdir(mode=0o700)
        for folder in (run.submissions, run.attempts, run.checkpoints, run.submitit):
            folder.mkdir(mode=0o700)
        run.record(RunState.SUBMITTING, request.created)
        atomic.write_bytes(run.run_file, encode(request))
        atomic.fsync_directory(root)
    except OSError as error:
        discard(run)
        raise HpcpoolsError(
            f"cannot write the run in {root}: {error.strerror or error}",
            hint="check space, quota and mode there, or set project.root in hpcpools.toml",
        ) from error
    except BaseException:
        discard(run)
        raise
    return run


def discard(run: RunDirectory) -> None:
    """Remove a run that never reached Slurm."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        shutil.rmtree(run.path)  # rmtree is symlink-safe: it opens every level by descriptor
    with contextlib.suppress(OSError):
        run._live.unlink()


def open_run(root: Path, token: str) -> RunDirectory:
    """The run called ``token``, or whose token starts so if only one does. Raises NotFoundError."""
    if not is_token(token):
        found = [name for name in tokens(root) if name.startswith(token)] if token.startswith("hp-") else []
        if len(found) > 1:
            raise NotFoundError(f"{token!r} fits {len(found)} runs", hint="write more of the token")
        token = found[0] if found else token
    run = RunDirectory(root, token)
    if not run.run_file.is_file():
        raise NotFoundError(f"no run {token} in {root}", hint="`hpcpools runs` lists the runs")
    return run


def tokens(root: Path) -> list[str]:
    """All runs' tokens, newest first."""
    return sorted((name for name in _names(root) if is_token(name)), reverse=True)


def live_tokens(root: Path) -> list[str]:
    """Tokens of the runs that are not final, oldest first."""
    return sorted(name for name in _names(root / ".live") if is_token(name))


def ended_tokens(root: Path) -> list[str]:
    """Tokens of the runs that ended and wait for their verdict, oldest first."""
    return sorted(name for name in _names(root / ".ended") if is_token(name))


def drop_stale_live_mark(root: Path, token: str, now: float) -> bool:
    """Remove the live mark of a run whose creation died before ``run.json``, once it is ten minutes old."""
    run = RunDirectory(root, token)
    if run.run_file.exists():
        return False
    with contextlib.suppress(FileNotFoundError):
        if now - run._live.stat().st_mtime > 600:
            discard(run)
            return True
    return False


def check_owned(path: Path) -> None:
    """Raise PermissionsError unless ``path`` is ours, no symlink, and not writable by others (SEC-6)."""
    facts = path.lstat()
    if stat.S_ISLNK(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o022:
        raise PermissionsError(
            f"{path} is owned by uid {facts.st_uid} with mode {stat.filemode(facts.st_mode)}",
            hint="it must be yours, no symlink, and writable by you alone",
        )


def secure_root(root: Path) -> None:
    """Make ``root`` and its folders of marks if they are missing. Raises PermissionsError, OSError.

    No stranger may be able to put another folder in its place (SEC-6).
    """
    if not root.exists():
        root.mkdir(mode=0o700, parents=True)
    check_owned(root)
    account.check_parents(root)
    for marks in (root / ".live", root / ".ended"):
        with contextlib.suppress(FileExistsError):
            marks.mkdir(mode=0o700)
        check_owned(marks)


def _check_space(root: Path) -> None:
    free = os.statvfs(root)
    if free.f_bavail * free.f_frsize < MIN_FREE_BYTES or (free.f_files and free.f_favail < MIN_FREE_INODES):
        raise HpcpoolsError(
            f"the file system of {root} has {free.f_bavail * free.f_frsize // 2**20} MiB "
            f"and {free.f_favail} inodes left",
            hint="free some space (`hpcpools cleanup` removes old checkpoints); nothing was submitted",
        )


def _names(folder: Path) -> Iterator[str]:
    try:
        yield from os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
