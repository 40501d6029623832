"""Two pools behind one command line: long training on Slurm, short tasks on Redis workers.

The public names; each is imported when first used, so that `import hpcpools` stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpcpools.api import enqueue, enqueue_many, sweep, train
    from hpcpools.compose import Pipeline, PipelineHandle
    from hpcpools.declare import task, training
    from hpcpools.training.context import Run, current_run
    from hpcpools.training.handle import RunHandle
    from hpcpools.training.shuffle import Shuffle
    from hpcpools.training.sweephandle import SweepHandle

__version__ = "0.1.0"
__all__ = [
    "Pipeline",
    "PipelineHandle",
    "Run",
    "RunHandle",
    "Shuffle",
    "SweepHandle",
    "current_run",
    "enqueue",
    "enqueue_many",
    "sweep",
    "task",
    "train",
    "training",
]

_HOMES = {
    "Pipeline": "hpcpools.compose",
    "PipelineHandle": "hpcpools.compose",
    "Run": "hpcpools.training.context",
    "current_run": "hpcpools.training.context",
    "RunHandle": "hpcpools.training.handle",
    "Shuffle": "hpcpools.training.shuffle",
    "SweepHandle": "hpcpools.training.sweephandle",
    "enqueue": "hpcpools.api",
    "sweep": "hpcpools.api",
    "enqueue_many": "hpcpools.api",
    "task": "hpcpools.declare",
    "train": "hpcpools.api",
    "training": "hpcpools.declare",
}


def __getattr__(name: str) -> Any:
    if home := _HOMES.get(name):
        import importlib

        return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'hpcpools' has no attribute {name!r}")
