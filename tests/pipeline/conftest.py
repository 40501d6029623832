"""A real Redis and a real pool for the tasks of ``tests/unit/pipeline``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.lab import PipelineLab


@pytest.fixture
def lab() -> Iterator[PipelineLab]:
    """No pool is started: the test does that."""
    with tempfile.TemporaryDirectory(prefix="hp-") as folder:
        made = PipelineLab(Path(folder))
        try:
            yield made
        finally:
            made.stop()
            print(made.events()[-6000:])
