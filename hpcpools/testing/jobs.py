"""The fake's jobs as a test sees them, and how a test waits for them. Owns the way into the fake's world."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from hpcpools.errors import NotFoundError, WaitTimeoutError
from hpcpools.testing import scheduling
from hpcpools.testing.world import Job, Store, World


class JobView(msgspec.Struct, frozen=True):
    """One job as it is now. ``exit_code`` and ``signal`` of its last end; times are virtual epoch seconds."""

    id: str
    name: str
    comment: str
    partition: str
    state: str
    reason: str
    restarts: int
    nodes: tuple[str, ...]
    exit_code: int
    signal: int
    submit: float
    start: float
    end: float


class Jobs:
    """The queue of the fake in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._store = Store(folder)

    @property
    def now(self) -> float:
        """The virtual time, in epoch seconds; it begins with the real one."""
        return self._store.read().now

    def jobs(self) -> tuple[JobView, ...]:
        """What slurmctld knows, oldest first."""
        return tuple(map(_view, self._store.read().jobs))

    def job(self, job_id: str | int) -> JobView | None:
        """One of them, ``7`` or ``7_3``; None if it is gone, or never was, or an array of several."""
        found = self._store.read().find(str(job_id))
        return _view(found[0]) if len(found) == 1 else None

    def wait(self, job_id: str | int, *states: str, timeout: float = 30.0) -> JobView:
        """Wait, in real seconds, until the job is in one of ``states`` (any final one by default).

        Raises WaitTimeoutError, NotFoundError once it is gone.
        """
        deadline = time.monotonic() + timeout
        while True:
            job = self.job(job_id)
            if job is None:
                raise NotFoundError(f"there is no job {job_id}", hint="it was purged, or never submitted")
            if job.state in states if states else job.state not in ("PENDING", "RUNNING", "COMPLETING"):
                return job
            if time.monotonic() > deadline:
                raise WaitTimeoutError(
                    f"job {job_id} is {job.state} ({job.reason}) after {timeout:g} s",
                    hint="virtual time moves only with advance()",
                )
            time.sleep(0.02)

    @contextlib.contextmanager
    def _change(self) -> Iterator[World]:
        with self._store.change() as world:
            yield world
            if world.auto:
                scheduling.schedule(world, self.folder)

    @contextlib.contextmanager
    def _one(self, job_id: str | int) -> Iterator[tuple[World, Job]]:
        """Raises NotFoundError unless it is exactly one job."""
        with self._change() as world:
            yield world, world.one(str(job_id))

    def _by_number(self, number: int) -> Job | None:
        return next((job for job in self._store.read().jobs if job.id == number), None)


def _view(job: Job) -> JobView:
    return JobView(
        id=job.shown_id,
        name=job.spec.name,
        comment=job.spec.comment,
        partition=job.spec.partition,
        state=job.word,
        reason=job.reason,
        restarts=job.restarts,
        nodes=tuple(job.nodes),
        exit_code=job.status >> 8 & 0xFF,
        signal=job.status & 0x7F,
        submit=job.submit,
        start=job.start,
        end=job.end,
    )
