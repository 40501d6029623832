"""The pytest plugin: the fixture ``fake_slurm``. Every pytest run of an environment loads it, hence bare."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hpcpools.testing.fake import FakeSlurm


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers", "fake_slurm(cluster=..., auto=False): the shape of the fixture fake_slurm's cluster"
    )


@pytest.fixture
def fake_slurm(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeSlurm]:
    """A fake Slurm on PATH for this test; all of its processes are ended afterwards, or the test fails."""
    from hpcpools.testing.fake import FakeSlurm

    marker = request.node.get_closest_marker("fake_slurm")
    with FakeSlurm(tmp_path / "fake-slurm", **(marker.kwargs if marker else {})) as slurm:
        for name, value in slurm.env.items():
            monkeypatch.setenv(name, value)
        yield slurm
