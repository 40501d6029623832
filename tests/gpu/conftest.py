"""One compute node for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gpu.entry import Node


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A compute node; its runs lie in the test's folder."""
    return Node(tmp_path)
