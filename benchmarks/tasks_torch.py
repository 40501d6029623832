"""The same task in a module that imports torch, as an evaluation's does."""

from __future__ import annotations

import torch  # noqa: F401  (its import is what is measured)

from benchmarks.stamps import stamp


def noop(number: int) -> int:
    """Start, and return the number."""
    stamp(number)
    return number
