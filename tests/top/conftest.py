"""A Redis with two workers for all tests of a module; each test has runs of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from hpcpools.config import Config
from tests.conftest import state_home
from tests.short.lab import Lab
from tests.top.scene import plant_all


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Redis and workers."""
    with state_home() as folder:
        lab = Lab(Path(folder))
        lab.start_pool()
        lab.wait_idle_workers(2)
        try:
            yield lab
        finally:
            lab.stop()


@pytest.fixture
def config(lab: Lab, tmp_path: Path) -> Config:
    """The lab's, with the local slot (that nobody serves) and an empty folder for runs."""
    replace = msgspec.structs.replace
    project = replace(lab.config.project, root=str(tmp_path / "runs"))
    return replace(lab.config, project=project, training=replace(lab.config.training, engine="local"))


@pytest.fixture
def runs(config: Config) -> dict[str, str]:
    """Planted runs: label → token."""
    return plant_all(config.root)
