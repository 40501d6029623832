"""The plain task, declared for hpcpools."""

from __future__ import annotations

from benchmarks import tasks_plain
from hpcpools import task


@task
def noop(number: int) -> int:
    """Start, and return the number."""
    return tasks_plain.noop(number)
