"""A fake Slurm for tests without a cluster: its commands on PATH, a clock that the test moves, and faults.

Owns the fake: a folder with its state and its commands, and the processes of its jobs. Refuses to invent:
an option that it does not know is an error, never an answer. Begin with the fixture ``fake_slurm`` of pytest,
or with :class:`FakeSlurm`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpcpools.testing.cluster import Cluster, Node, Partition
    from hpcpools.testing.fake import FakeSlurm
    from hpcpools.testing.jobs import JobView

__all__ = ["Cluster", "FakeSlurm", "JobView", "Node", "Partition"]

_HOMES = {
    "FakeSlurm": "fake",
    "JobView": "jobs",
    "Cluster": "cluster",
    "Node": "cluster",
    "Partition": "cluster",
}


def __getattr__(name: str) -> Any:
    if home := _HOMES.get(name):
        import importlib

        return getattr(importlib.import_module(f"hpcpools.testing.{home}"), name)
    raise AttributeError(f"module 'hpcpools.testing' has no attribute {name!r}")
