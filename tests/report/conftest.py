"""A real Redis with planted runs, planted counts and failed jobs of a real pool: what a report is made of."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from hpcpools.config import Config
from hpcpools.short.tally import Tally
from tests.conftest import state_home
from tests.report.scene import plant_all
from tests.short.lab import TASKS, Lab


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Redis, two failed jobs of one kind and a good one, and a tally."""
    with state_home() as folder:
        lab = Lab(Path(folder))
        try:
            jobs = [lab.enqueue("leave_meta", how=how) for how in ("fail", "fail", "return")]
            lab.start_pool("burst").wait(60)
            assert [job.refresh().state for job in jobs] == ["failed", "failed", "finished"]
            lab.redis.delete("hp:tally")
            tally = Tally(1, [f"{TASKS}:say"], ["default"])
            for seconds in (0.001, 0.2, 0.2, 2000.0):
                tally.ran(0, f"{TASKS}:say", seconds)
            tally.waited(0, "default", 3.0)
            tally.bring(lab.redis)
            yield lab
        finally:
            lab.stop()


@pytest.fixture
def config(lab: Lab, tmp_path: Path) -> Config:
    """The lab's, with planted runs of its own."""
    replace = msgspec.structs.replace
    found = replace(lab.config, project=replace(lab.config.project, root=str(tmp_path / "runs")))
    plant_all(found.root)
    return found


@pytest.fixture
def now() -> float:
    """The end of the span: after the jobs ended."""
    return time.time()
