"""The answer of `hpcpools explain`: why something is in its state, what shows it, and what to do next.

Plain data; the decisions are in ``training/explain.py`` and ``short/explain.py``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Explanation:
    """``cause`` and ``action`` are sentences for people; ``code`` is one word, Slurm's own where it has one.

    ``starts`` is Slurm's forecast of the start, ``as_of`` when the facts were last confirmed; epoch seconds.
    """

    name: str
    state: str
    cause: str
    action: str
    code: str = ""
    evidence: tuple[str, ...] = ()
    starts: float | None = None
    as_of: float | None = None
