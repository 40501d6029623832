"""The same task, which imports torch itself: once in each process that runs it, and in no parent of them."""

from __future__ import annotations

from benchmarks.stamps import stamp


def noop(number: int) -> int:
    """Import, start, and return the number."""
    import torch  # noqa: F401  (its import is what is measured)

    stamp(number)
    return number
