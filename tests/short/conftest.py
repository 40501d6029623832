"""The lab as a fixture; it shows what the pool said when a test fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.short.lab import Lab


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A running Redis and a config, no pool yet."""
    lab = Lab(tmp_path)
    try:
        yield lab
    finally:
        lab.stop()
        print(lab.events()[-6000:])
