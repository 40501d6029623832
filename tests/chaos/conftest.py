"""The short pool that the storms go over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.short.lab import Lab

WORKERS = 4  # as by default


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Lab]:
    """Redis and a configuration with the default number of workers."""
    lab = Lab(tmp_path, workers=WORKERS)
    try:
        yield lab
    finally:
        lab.stop()
        print(lab.events()[-4000:])
