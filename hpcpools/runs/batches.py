"""A batch of short tasks that one Slurm job carries: its directory, who may run what, and how each ended.

Owns ``<root>/.lane/``. Two names decide every race, for ``link(2)`` has one winner on a shared file system
too: ``claims/N.json`` says who has task N (a node that starts it, or the login side that takes it back), and
``ends/N.json`` how it ended (what the node saw, or that it is given up as lost). The loser changes nothing.

    <root>/.lane/.live/<token>       one empty file per batch whose jobs are not all settled
    <root>/.lane/times.json          how long the tasks of each name took      (login node)
    <root>/.lane/<token>/batch.json  what to run; fsynced before sbatch        (login node)
                    slurm.json       the Slurm job's id, once sbatch said it   (login node)
                    stops/N          someone asked for the end of task N       (login node)
                    claims/N.json ends/N.json                                  (whoever is first)
                    logs/N.out       what the task printed                     (compute node)
                    submitit/        the script that was sent, the launcher's own logs
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
from msgspec import Struct

from hpcpools import atomic, formats
from hpcpools.errors import HpcpoolsError, PermissionsError
from hpcpools.runs.directory import check_owned, secure_root
from hpcpools.runs.request import digest
from hpcpools.runs.token import is_batch_token

# finished, failed, stopped: of the task itself; interrupted: its node was taken away while it ran; returned:
# it never started; lost: it started, and Slurm says that nothing of the job is left.
Outcome = Literal["finished", "failed", "stopped", "interrupted", "returned", "lost"]


class Carried(Struct, frozen=True, forbid_unknown_fields=True):
    """One short job in a batch: rq's ids and queue, what to call, and its limit in seconds."""

    id: str
    execution: str
    queue: str
    task: str
    arguments: dict[str, Any]
    timeout: float


class Batch(Struct, frozen=True, forbid_unknown_fields=True):
    """The content of ``batch.json``. ``mem`` in MiB and ``cpus`` are for each task, as they run in turn.

    ``lane``: the lane that holds the jobs; ``minutes``: wall time of the Slurm job; ``modules``: those that
    may declare tasks.
    """

    token: str
    lane: str
    created: float
    partition: str
    gpus: int
    cpus: int
    mem: int
    minutes: int
    jobs: tuple[Carried, ...]
    modules: tuple[str, ...]
    python_path: tuple[str, ...]
    workdir: str
    config: str
    format: int = formats.FORMAT


class BatchDirectory:
    """Paths and small durable facts of one batch; holds no state of its own."""

    def __init__(self, root: Path, token: str) -> None:
        if not is_batch_token(token):
            raise PermissionsError(f"{token!r} is no batch", hint="only the lane makes batches")
        self.root = root
        self.token = token
        self.path = lane_folder(root) / token
        self.file = self.path / "batch.json"
        self.submitit = self.path / "submitit"
        self._live = lane_folder(root) / ".live" / token
        self._slurm = self.path / "slurm.json"
        self._claims, self._ends, self._stops, self._logs = (
            self.path / name for name in ("claims", "ends", "stops", "logs")
        )

    def read(self, wanted: str = "") -> Batch:
        """The batch, if it is ours alone and, with ``wanted``, has that SHA-256 (SEC-6).

        Raises PermissionsError, HpcpoolsError for a damaged one.
        """
        check_owned(self.path)
        check_owned(self.file)
        data = atomic.read_bytes(self.file)
        if wanted and digest(data) != wanted:
            raise PermissionsError(
                f"{self.file}: payload hash mismatch", hint="it was changed after submission; it runs nothing"
            )
        try:
            formats.check_bytes(data, self.file.name)
            batch = msgspec.convert(json.loads(data), Batch)
        except (ValueError, msgspec.MsgspecError) as error:
            raise HpcpoolsError(f"{self.file} is damaged: {error}", hint="its jobs are given back") from None
        return batch

    def digest(self) -> str:
        """SHA-256 of ``batch.json`` as it lies there."""
        return digest(self.file.read_bytes())

    def submitted(self, job_id: str, at: float) -> None:
        """Slurm has it as ``job_id``."""
        atomic.write_json(self._slurm, {"job_id": job_id, "at": at})

    def job_id(self) -> str:
        """Slurm's id; empty until it is known."""
        return str((atomic.read_json(self._slurm) or {}).get("job_id", ""))

    def start(self, number: int, at: float, **facts: Any) -> bool:
        """On the node: become the one that runs task ``number``; False if that is decided otherwise."""
        return atomic.create_json(self._claims / f"{number}.json", {"by": "node", "at": at, **facts})

    def withdraw(self, number: int, outcome: Outcome, **facts: Any) -> bool:
        """Make sure that task ``number`` never starts, and end it so; False if it has started."""
        claim = self._claims / f"{number}.json"
        if not atomic.create_json(claim, {"by": "lane", "at": time.time()}):
            there = atomic.read_json(claim)  # None: there, and not visible here yet
            if there is None or there.get("by") != "lane":
                return False
        self.end(number, outcome, **facts)
        return True

    def started(self, number: int) -> dict[str, Any] | None:
        """Who started task ``number``, where and when; None if nobody did."""
        claim: dict[str, Any] | None = atomic.read_json(self._claims / f"{number}.json")
        return claim if claim and claim.get("by") == "node" else None

    def end(self, number: int, outcome: Outcome, **facts: Any) -> bool:
        """Say how task ``number`` ended; False if that was said before, which then stands."""
        marker = {"outcome": outcome, "at": time.time(), **facts}
        return atomic.create_json(self._ends / f"{number}.json", marker)

    def ending(self, number: int) -> dict[str, Any] | None:
        """How task ``number`` ended; None if it has not."""
        try:
            found = atomic.read_json(self._ends / f"{number}.json")
        except ValueError:
            found = {}
        if found is None or (isinstance(found, dict) and found.get("outcome") in get_args(Outcome)):
            return found
        return {"outcome": "failed", "reason": "its end marker is damaged", "at": time.time()}

    def ended(self) -> set[int]:
        """The tasks that ended, in one look at one folder."""
        return _numbers(self._ends)

    def claimed(self) -> set[int]:
        """The tasks that were started or taken back."""
        return _numbers(self._claims)

    def stop(self, number: int) -> None:
        """Ask for the end of task ``number``, which runs."""
        atomic.create_bytes(self._stops / str(number), b"")

    def must_stop(self, number: int) -> bool:
        """On the node: someone asked for the end of task ``number``, or has given it up."""
        return (self._stops / str(number)).exists() or (self._ends / f"{number}.json").exists()

    def log(self, number: int) -> Path:
        """What task ``number`` printed."""
        return self._logs / f"{number}.out"

    def said(self, number: int) -> Path:
        """Where the task's own process leaves what it has to say, for the entry."""
        return self._claims / f".{number}.said"

    def close(self) -> None:
        """All its jobs are settled."""
        with contextlib.suppress(FileNotFoundError):
            self._live.unlink()

    def _make(self, batch: Batch) -> None:
        atomic.create_bytes(self._live, b"")
        self.path.mkdir(mode=0o700)
        for folder in (self._claims, self._ends, self._stops, self._logs, self.submitit):
            folder.mkdir(mode=0o700)
        atomic.write_bytes(self.file, json.dumps(msgspec.to_builtins(batch)).encode() + b"\n")
        atomic.fsync_directory(lane_folder(self.root))

    def drop_stale(self, now: float) -> None:
        """Remove a batch whose maker died before ``batch.json`` was there, once it is ten minutes old."""
        with contextlib.suppress(FileNotFoundError):
            if not self.file.exists() and now - self._live.stat().st_mtime > 600:
                self.discard()

    def discard(self) -> None:
        """Remove it whole."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            shutil.rmtree(self.path)
        self.close()


def lane_folder(root: Path) -> Path:
    """Where all batches lie."""
    return root / ".lane"


def create(root: Path, batch: Batch) -> BatchDirectory:
    """Make a batch durable. Nothing stays behind if a step fails.

    Raises HpcpoolsError naming the place if the file system is full or not writable, PermissionsError.
    """
    place = BatchDirectory(root, batch.token)
    try:
        secure_root(root)
        for folder in (lane_folder(root), lane_folder(root) / ".live"):
            folder.mkdir(mode=0o700, exist_ok=True)
            check_owned(folder)
        place._make(batch)
    except OSError as error:
        with contextlib.suppress(OSError):
            place.discard()
        raise HpcpoolsError(
            f"cannot write a batch in {lane_folder(root)}: {error.strerror or error}",
            hint="check space, quota and mode there",
        ) from error
    return place


def live(root: Path) -> list[str]:
    """Tokens of the batches whose jobs are not all settled, oldest first."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return sorted(name for name in os.listdir(lane_folder(root) / ".live") if is_batch_token(name))
    return []


def prune(root: Path, older: float) -> int:
    """Remove the batches that are settled since before ``older`` (epoch seconds); how many."""
    kept, removed = set(live(root)), 0
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for name in os.listdir(lane_folder(root)):
            place = lane_folder(root) / name
            if is_batch_token(name) and name not in kept and place.stat().st_mtime < older:
                BatchDirectory(root, name).discard()
                removed += 1
    return removed


def _numbers(folder: Path) -> set[int]:
    with contextlib.suppress(FileNotFoundError):
        names = (name.removesuffix(".json") for name in os.listdir(folder) if name.endswith(".json"))
        return {int(name) for name in names if name.isdigit()}
    return set()
