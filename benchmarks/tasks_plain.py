"""The task that does nothing but say when it starts: what is left is the queue's own work."""

from __future__ import annotations

from benchmarks.stamps import stamp


def noop(number: int) -> int:
    """Start, and return the number."""
    stamp(number)
    return number
