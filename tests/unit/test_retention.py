"""Which checkpoints go, and that nothing else does."""

from __future__ import annotations

import os
import time
from pathlib import Path

from hpcpools import config
from hpcpools.maintenance.cleanup import clean, to_drop
from hpcpools.runs import checkpoints, directory, token
from hpcpools.runs.checkpoints import Checkpoint
from hpcpools.runs.request import Request, Resources
from hpcpools.schema import Retention, Seconds

NOW = 1_000_000.0


def found(*losses: float, pinned: int = 0) -> list[Checkpoint]:
    """Checkpoints of steps 1, 2, … with these losses, one hour apart, the last one now."""
    count = len(losses)
    return [
        Checkpoint(Path(f"step-{i}"), i, NOW - (count - i) * 3600, 1, {"loss": loss}, {}, pinned=i == pinned)
        for i, loss in enumerate(losses, start=1)
    ]


def dropped(items: list[Checkpoint], final: bool = True, **policy: object) -> list[int]:
    """Steps that go."""
    retention = Retention(**policy)  # type: ignore[arg-type]
    return [item.step for item in to_drop(items, retention, NOW, final=final)]


def test_newest_and_best_stay() -> None:
    """Keep the newest two and the best one."""
    assert dropped(found(3, 1, 5, 4, 6), keep_last=2, keep_best=1) == [1, 3]
    assert dropped(found(3, 1, 5, 4, 2), keep_last=1, keep_best=1, mode="max") == [1, 2, 4]


def test_a_nan_is_never_the_best() -> None:
    """NaN sorts nowhere."""
    assert dropped(found(float("nan"), 2, 3), keep_last=1, keep_best=1) == [1]


def test_pins_always_stay() -> None:
    """Also beyond the age."""
    assert dropped(found(1, 2, 3, 4, pinned=1), keep_last=1, keep_best=0) == [2, 3]
    assert dropped(found(1, 2, pinned=1), keep_last=1, keep_best=0, max_age=Seconds(1)) == []


def test_age_spares_the_newest_of_a_live_run() -> None:
    """A run that may resume never loses its last checkpoint."""
    items = [item for item in found(1, 2, 3) if item.step < 3]
    assert dropped(items, final=True, keep_last=3, max_age=Seconds(60)) == [1, 2]
    assert dropped(items, final=False, keep_last=3, max_age=Seconds(60)) == [1]


def test_cleaning_leaves_the_root_alone_and_follows_no_symlink(tmp_path: Path) -> None:
    """A symlinked checkpoint or checkpoint folder is left as it is, with what it points to."""
    settings = config.parse({"retention": {"keep_last": 1, "keep_best": 0}}, tmp_path / "hpcpools.toml", {})
    now = time.time()
    run = directory.create(
        settings.root, Request(token.new_token(now), now, "slurm", Resources(), command=("true",))
    )
    outside = tmp_path / "outside"
    for folder in (run.checkpoints, outside):
        folder.mkdir(exist_ok=True)
        for step in (1, 2, 3):
            with checkpoints.writing(folder, step, now, {}) as tmp:
                (tmp / "state.pt").write_text("x")
    os.symlink(outside / "step-000000001", run.checkpoints / "step-000000000")
    dry = clean(settings, dry_run=True)
    assert len(dry.removed) == 2
    assert len(checkpoints.complete(run.checkpoints)) == 3
    clean(settings, dry_run=False)
    assert [item.step for item in checkpoints.complete(run.checkpoints)] == [3]
    assert (run.checkpoints / "step-000000000").is_symlink()
    assert len(checkpoints.complete(outside)) == 3
    other = directory.create(
        settings.root, Request(token.new_token(now), now, "slurm", Resources(), command=("true",))
    )
    other.checkpoints.rmdir()
    os.symlink(outside, other.checkpoints)
    outcome = clean(settings, dry_run=False)
    assert other.token in outcome.problems[0]
    assert len(checkpoints.complete(outside)) == 3
