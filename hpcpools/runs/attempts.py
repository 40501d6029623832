"""An attempt: one start of a run on a node. Who may start (the claim), and how it ended (the marker).

Owns ``attempts/N.R/`` where N is the submission and R Slurm's restart count. Written by the node only; of
several nodes the first claims and ends it, and each further one writes into ``node-K/`` inside.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from hpcpools import atomic
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Request
from hpcpools.runs.states import Cause, RunState

# "stopped": it heeded a warning; "killed": TERM or KILL ended it. Neither is final: Slurm names the cause.
Outcome = Literal["completed", "failed", "stopped", "killed"]


class Place(msgspec.Struct, frozen=True):
    """Where and as what the node runs us. ``pid_start`` and ``boot`` tell a reused pid apart.

    ``index``: our node's number in the job, from 0; ``nodelist``: Slurm's name for all of them.
    """

    cluster: str
    job_id: str
    restart: int
    node: str
    pid: int
    pid_start: int
    boot: str
    index: int = 0
    nodelist: str = ""


class Attempt(msgspec.Struct, frozen=True):
    """One start, as its files tell. Times are epoch seconds; ``outcome`` is "" while it runs."""

    number: int
    submission: int
    restart: int
    path: Path
    job_id: str = ""
    cluster: str = ""
    node: str = ""
    nodelist: str = ""  # several nodes, as Slurm writes them; else empty
    pid: int = 0
    pid_start: int = 0
    boot: str = ""
    started: float = 0.0
    ended: float | None = None
    outcome: str = ""
    exit_code: int | None = None
    signal: int | None = None
    cause: Cause = Cause.NONE
    error: str = ""
    requeued: str = ""  # it asked Slurm for a requeue before it ended; the budget this is charged to

    @property
    def state(self) -> RunState:
        """RUNNING, or what the end marker says; a stopped or killed attempt is for Slurm to name."""
        if self.outcome == "completed":
            return RunState.COMPLETED
        if self.outcome == "failed":
            return RunState.OUT_OF_MEMORY if self.cause is Cause.OUT_OF_MEMORY else RunState.FAILED
        return RunState.RUNNING

    @property
    def where(self) -> str:
        """Its node, or all of them."""
        return self.nodelist or self.node

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folder of each of its nodes, the first one's being the attempt's own."""
        if not self.nodelist:
            return (self.path,)
        further = sorted(self.path.glob("node-*/"), key=lambda folder: (len(folder.name), folder.name))
        return (self.path, *further)


def of_node(attempt: Path, index: int) -> Path:
    """Where node ``index`` of an attempt writes."""
    return attempt / f"node-{index}" if index else attempt


def whole(folder: Path) -> Path:
    """The attempt's own folder, from that of one of its nodes."""
    return folder.parent if folder.name.startswith("node-") else folder


def node_name(folder: Path) -> str:
    """The name of the node that writes into ``folder``."""
    return str((atomic.read_json(folder / "start.json") or {}).get("node", folder.name))


def claim(run: RunDirectory, submission: int, place: Place, at: float) -> Path | None:
    """Become the one process that runs this attempt; its directory, or None if another one is.

    Two Slurm jobs of the same submission (sbatch timed out and was repeated): the first to link the owner
    file wins for good. A requeued job has the same id and a higher restart count, so it passes. An older
    submission loses to a newer one.
    """
    if run.cancelled() or run.last_submission() > submission:
        return None
    owner = {"cluster": place.cluster, "job_id": place.job_id}
    if not atomic.create_json(run.submissions / f"{submission}.owner.json", owner) and (
        run.owner(submission) != owner
    ):
        return None
    folder = run.attempts / f"{submission}.{place.restart}"
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return None
    start = {
        "cluster": place.cluster,
        "job_id": place.job_id,
        "node": place.node,
        "nodelist": place.nodelist,
        "pid": place.pid,
        "pid_start": place.pid_start,
        "boot": place.boot,
        "at": at,
    }
    atomic.write_json(folder / "start.json", start)
    return folder


def claimed(run: RunDirectory, submission: int, place: Place) -> Path | None:
    """What :func:`claim` gave the first node of this very job and restart; None so far."""
    folder = run.attempts / f"{submission}.{place.restart}"
    start = atomic.read_json(folder / "start.json") or {}
    ours = (start.get("cluster"), start.get("job_id")) == (place.cluster, place.job_id)
    return folder if ours else None


def no_claim(run: RunDirectory, submission: int, place: Place) -> bool:
    """True if :func:`claim` gives this job nothing, whenever it is called."""
    owner = run.owner(submission) or {}
    other = owner not in ({}, {"cluster": place.cluster, "job_id": place.job_id})
    return other or run.cancelled() or run.last_submission() > submission


def as_submitted(run: RunDirectory, request: Request, submission: int) -> Request:
    """The request with what this submission changed (a smaller problem after running out of memory)."""
    changed = run.submission(submission).get("arguments")
    return msgspec.structs.replace(request, arguments=changed) if changed else request


def end(
    folder: Path,
    outcome: Outcome,
    at: float,
    *,
    exit_code: int = 0,
    signal: int | None = None,
    cause: Cause = Cause.NONE,
    error: str = "",
    requeued: str = "",
) -> None:
    """Write the end marker. The result must be durable before this."""
    marker: dict[str, Any] = {"outcome": outcome, "at": at, "exit_code": exit_code}
    if signal:
        marker["signal"] = signal
    if cause is not Cause.NONE:
        marker["cause"] = cause.value
    if requeued:
        marker["requeued"] = requeued
    if error:
        marker["error"] = error[-8000:]
    atomic.write_json(folder / "end.json", marker)


def read_attempts(run: RunDirectory) -> tuple[Attempt, ...]:
    """All attempts, oldest first, numbered from 1."""
    keys = []
    for folder in run.attempts.iterdir() if run.attempts.is_dir() else ():
        submission, dot, restart = folder.name.partition(".")
        if dot and submission.isdigit() and restart.isdigit() and not folder.is_symlink():
            keys.append((int(submission), int(restart)))
    return tuple(_read(run, number, *key) for number, key in enumerate(sorted(keys), start=1))


def _read(run: RunDirectory, number: int, submission: int, restart: int) -> Attempt:
    path = run.attempts / f"{submission}.{restart}"
    start = atomic.read_json(path / "start.json") or {}
    marker = atomic.read_json(path / "end.json") or {}
    return Attempt(
        number=number,
        submission=submission,
        restart=restart,
        path=path,
        job_id=str(start.get("job_id", "")),
        cluster=str(start.get("cluster", "")),
        node=str(start.get("node", "")),
        nodelist=str(start.get("nodelist", "")),
        pid=int(start.get("pid", 0)),
        pid_start=int(start.get("pid_start", 0)),
        boot=str(start.get("boot", "")),
        started=float(start.get("at", 0.0)),
        ended=marker.get("at"),
        outcome=str(marker.get("outcome", "")),
        exit_code=marker.get("exit_code"),
        signal=marker.get("signal"),
        cause=Cause(marker.get("cause", "")),
        error=str(marker.get("error", "")),
        requeued=str(marker.get("requeued", "")),
    )
