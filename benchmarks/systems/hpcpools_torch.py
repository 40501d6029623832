"""The torch task, declared for hpcpools."""

from __future__ import annotations

from benchmarks import tasks_torch
from hpcpools import task


@task
def noop(number: int) -> int:
    """Start, and return the number."""
    return tasks_torch.noop(number)
