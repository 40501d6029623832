"""What the lane carries now, from files alone: for `status`, and for whoever looks for one job.

Refuses to ask Slurm: its last answer lies in the cache that all readers share.
"""

from __future__ import annotations

import contextlib
from typing import Any

from msgspec import Struct

from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError
from hpcpools.runs import batches
from hpcpools.runs.batches import Batch, BatchDirectory
from hpcpools.training import watch
from hpcpools.training.watch import Poll


class BatchView(Struct, frozen=True):
    """One open batch. ``state``, ``reason``, ``nodes``: Slurm's words, empty while it has not said any."""

    batch: str
    job_id: str
    state: str
    reason: str
    nodes: str
    tasks: int
    running: int
    ended: int


class Found(Struct, frozen=True):
    """Where a job is carried: task ``number`` of ``batch``; ``listed``: Slurm's words about its job."""

    place: BatchDirectory
    batch: Batch
    number: int
    listed: dict[str, Any]


def open_batches(config: Config) -> list[BatchView]:
    """All batches with jobs that are not settled, oldest first."""
    poll = watch.load_poll(config.root)
    found = []
    for token in batches.live(config.root):
        with contextlib.suppress(HpcpoolsError, OSError):
            found.append(_view(BatchDirectory(config.root, token), poll))
    return found


def find(config: Config, job_id: str, execution: str = "") -> Found | None:
    """The batch that carries a short job now; None if none does."""
    for token in reversed(batches.live(config.root)):
        with contextlib.suppress(HpcpoolsError, OSError):
            place = BatchDirectory(config.root, token)
            batch = place.read()
            for number, job in enumerate(batch.jobs):
                if job.id == job_id and execution in ("", job.execution):
                    listed = watch.load_poll(config.root).batches.get(token, {})
                    return Found(place, batch, number, listed)
    return None


def _view(place: BatchDirectory, poll: Poll) -> BatchView:
    tasks, ended, claimed = len(place.read().jobs), place.ended(), place.claimed()
    listed = poll.batches.get(place.token, {})
    state, reason, nodes = (str(listed.get(name, "")) for name in ("state", "reason", "nodes"))
    running = len(claimed - ended)
    return BatchView(place.token, place.job_id(), state, reason, nodes, tasks, running, len(ended))
