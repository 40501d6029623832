"""pytest plugin: the fixtures `cluster` (with accounting), `plain_cluster` (without) and `memory_cluster`.
A lab that already runs is used and left running; where none can be had, tests skip, or fail if required."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.files import LabError
from tests.cluster.lab import Lab, LabUnavailableError
from tests.cluster.layout import VARIANTS

FIXTURES = {"cluster": "accounting", "plain_cluster": "plain", "memory_cluster": "memory"}


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line("markers", "slurm: needs the real Slurm lab (make test provides it)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses a lab, so that `-m "not slurm"` is right without anyone remembering the marker."""
    for item in items:
        if FIXTURES.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker("slurm")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Nodes n1..n4 with four GPUs each; partitions gpu (default), low (preemptible), cpu; sacct works."""
    yield from _lend("accounting")


@pytest.fixture(scope="session")
def plain_cluster() -> Iterator[Cluster]:
    """Two nodes m1, m2 with four GPUs each; no accounting: sacct refuses."""
    yield from _lend("plain")


@pytest.fixture(scope="session")
def memory_cluster() -> Iterator[Cluster]:
    """One node with 300 MB that the kernel enforces; sacct works. Skips where cgroup v1 cannot be used."""
    yield from _lend("memory", required=False)


@pytest.fixture(autouse=True)
def _tidy_clusters(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test that used a lab: daemons healed, the test's leftover jobs cancelled by id."""
    used: list[Cluster] = [
        request.getfixturevalue(n) for n in sorted(FIXTURES.keys() & set(request.fixturenames))
    ]
    before = [frozenset(one.jobs()) for one in used]
    yield
    for one, kept in zip(used, before, strict=True):
        one.heal()
        one.cancel_all(keep=kept)


def _lend(variant: str, *, required: bool = True) -> Iterator[Cluster]:
    lab = Lab(VARIANTS[variant])
    try:
        started = lab.up()
    except (LabUnavailableError, LabError) as reason:
        if required and isinstance(reason, LabError):
            raise
        if required and (os.environ.get("CI") == "true" or os.environ.get("HPCPOOLS_REQUIRE_LAB") == "1"):
            pytest.fail(f"the Slurm lab is required here: {reason}", pytrace=False)
        pytest.skip(f"no Slurm lab: {reason}")
    try:
        yield Cluster(lab)
    finally:
        if started:
            lab.down()
