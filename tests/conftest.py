"""What all tests share: the Slurm lab, and a user's project with its command line as a subprocess."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.parity.fake import on_fake
from tests.parity.real import on_real
from tests.parity.stage import Stage
from tests.project import Project

LAB_VARIABLES = ("HPCPOOLS_REQUIRE_LAB", "HPCPOOLS_LAB_ROOT", "HPCPOOLS_CHAOS_SECONDS", "HPCPOOLS_CHAOS_RUNS")
pytest_plugins = ["tests.cluster.plugin", "hpcpools.testing.plugin"]


@pytest.fixture(autouse=True)
def _no_inherited_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own configuration or cluster must not leak into a test."""
    for name in list(os.environ):
        if name.startswith(("HPCPOOLS_", "SLURM_")) and name not in LAB_VARIABLES:
            monkeypatch.delenv(name)


@contextlib.contextmanager
def state_home() -> Iterator[str]:
    """A short path: a unix socket's is limited to about 100 bytes."""
    folder = tempfile.mkdtemp(prefix="hp-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def laptop(tmp_path: Path) -> Iterator[Project]:
    """A project on a machine with no Slurm on PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "sh", "env", "cat", "sleep", "true", "false", "redis-server", "git"):
        if found := shutil.which(name):
            (programs / name).symlink_to(found)
    with state_home() as state:
        project = Project(tmp_path / "project", {"PATH": str(programs), "XDG_STATE_HOME": state})
        try:
            yield project
        finally:
            project.close()


SITE = """
[training]
partition = "{partition}"
time = "5m"
signal_lead = "10s"

[training.partitions.{partition}]
gpus_per_node = {gpus}
max_time = "1-00:00:00"

[slurm]
poll_interval = "2s"
submit_lookups = [2, 5, 10]
lost_after = "5s"
provisional_for = "10s"
"""


@contextlib.contextmanager
def _on(cluster: Cluster | Stage, folder: Path) -> Iterator[Project]:
    settings = SITE.format(partition=cluster.partition, gpus=cluster.gpus_per_node)
    with state_home() as state:
        project = Project(folder / "project", {**cluster.env, "XDG_STATE_HOME": state}, settings)
        try:
            yield project
        finally:
            cluster.heal()
            project.close()


@pytest.fixture
def site(cluster: Cluster, tmp_path: Path) -> Iterator[Project]:
    """A project on the cluster with accounting."""
    with _on(cluster, tmp_path) as project:
        yield project


@pytest.fixture
def memory_site(memory_cluster: Cluster, tmp_path: Path) -> Iterator[Project]:
    """A project on the cluster whose kernel holds a job to its node's 300 MB."""
    with _on(memory_cluster, tmp_path) as project:
        yield project


@pytest.fixture
def plain_site(plain_cluster: Cluster, tmp_path: Path) -> Iterator[Project]:
    """A project on the cluster without accounting: sacct refuses."""
    with _on(plain_cluster, tmp_path) as project:
        yield project


STAGES = ["fake", pytest.param("real", marks=pytest.mark.slurm)]


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """The lab, or a fake Slurm of the same shape: one test for both."""
    with _lent(request, tmp_path, "cluster") as lent:
        yield lent


@pytest.fixture(params=STAGES)
def bare_stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """The lab without accounting, or a fake Slurm without it."""
    with _lent(request, tmp_path, "plain_cluster") as lent:
        yield lent


@pytest.fixture(params=STAGES)
def memory_stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """The lab whose kernel holds a job to its node's 300 MB, or a fake Slurm that does as if."""
    with _lent(request, tmp_path, "memory_cluster") as lent:
        yield lent


@pytest.fixture
def play(stage: Stage, tmp_path: Path) -> Iterator[Project]:
    """A project on a stage."""
    with _on(stage, tmp_path) as project:
        yield project


@pytest.fixture
def bare_play(bare_stage: Stage, tmp_path: Path) -> Iterator[Project]:
    """A project on a stage without accounting."""
    with _on(bare_stage, tmp_path) as project:
        yield project


@pytest.fixture
def memory_play(memory_stage: Stage, tmp_path: Path) -> Iterator[Project]:
    """A project on a stage that can run out of memory."""
    with _on(memory_stage, tmp_path) as project:
        yield project


@contextlib.contextmanager
def _lent(request: pytest.FixtureRequest, folder: Path, lab: str) -> Iterator[Stage]:
    (folder / "stage").mkdir()
    if request.param == "fake":
        with on_fake(folder / "stage", accounting=lab != "plain_cluster") as fake:
            yield fake
    else:
        with on_real(request.getfixturevalue(lab), folder / "stage") as real:
            yield real
