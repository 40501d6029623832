"""``cleanup_old_checkpoints``: which checkpoints go (a pure decision), and how they are removed.

Never leaves the root, never follows a symlink: each directory is checked by lstat, renamed away first,
then removed by descriptors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError
from hpcpools.pipeline.evaluate import needed
from hpcpools.runs import checkpoints, directory, removal
from hpcpools.runs.checkpoints import Checkpoint
from hpcpools.runs.directory import RunDirectory, check_owned
from hpcpools.runs.view import read_view
from hpcpools.schema import Retention


@dataclass
class Cleaned:
    """What was, or with ``dry_run`` would be, removed. ``bytes_`` in bytes."""

    dry_run: bool
    removed: list[Path] = field(default_factory=list)
    bytes_: int = 0
    problems: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """For the short job's result."""
        return {
            "dry_run": self.dry_run,
            "removed": len(self.removed),
            "bytes": self.bytes_,
            "problems": self.problems[:20],
        }


def to_drop(found: Sequence[Checkpoint], policy: Retention, now: float, *, final: bool) -> list[Checkpoint]:
    """The checkpoints of one run that the policy lets go. Pure.

    Kept: pinned ones; the newest ``keep_last``; the best ``keep_best`` by the metric. Of the kept, those
    over ``max_age`` go after all, but never a pinned one, and never the newest of a run that is not final.
    """
    by_step = sorted(found, key=lambda checkpoint: checkpoint.step)
    sign = 1 if policy.mode == "min" else -1
    rated = [checkpoint for checkpoint in by_step if _is_number(checkpoint.metrics.get(policy.metric))]
    best = sorted(rated, key=lambda checkpoint: sign * checkpoint.metrics[policy.metric])
    keep = {checkpoint.step for checkpoint in (*by_step[-policy.keep_last :], *best[: policy.keep_best])}
    if policy.max_age is not None:
        oldest = now - policy.max_age
        keep -= {checkpoint.step for checkpoint in by_step if checkpoint.at < oldest}
        if by_step and not final:
            keep.add(by_step[-1].step)
    return [item for item in by_step if item.step not in keep and not item.pinned]


def clean(
    config: Config,
    *,
    dry_run: bool,
    only: Sequence[str] = (),
    heed: Callable[[int, int], None] = lambda _done, _total: None,
) -> Cleaned:
    """Apply the policy to all runs, or to ``only`` some. ``heed(done, total)`` hears the progress."""
    outcome = Cleaned(dry_run)
    tokens = list(only) or directory.tokens(config.root)
    for done, token in enumerate(tokens, start=1):
        run = RunDirectory(config.root, token)
        try:
            _clean_run(config, run, outcome)
        except (HpcpoolsError, OSError) as error:
            outcome.problems.append(f"{token}: {error}")
        heed(done, len(tokens))
    return outcome


def _clean_run(config: Config, run: RunDirectory, outcome: Cleaned) -> None:
    check_owned(run.path)
    if not run.checkpoints.exists():
        return
    check_owned(run.checkpoints)  # refuses a symlink: what it points to is not ours to prune
    found = checkpoints.complete(run.checkpoints)
    drop = to_drop(found, config.retention, time.time(), final=read_view(run).state.is_final)
    waited_for = needed(config, run, found) if config.continuous_evaluation else set()
    for checkpoint in drop:
        if checkpoint.step in waited_for:
            continue
        if not outcome.dry_run:
            removal.remove(checkpoint.path)  # a resume never meets half a checkpoint
        outcome.removed.append(checkpoint.path)
        outcome.bytes_ += checkpoint.size


def _is_number(value: float | None) -> bool:
    return value is not None and value == value  # noqa: PLR0124 - NaN is never the best
