"""`hpcpools doctor` as a user meets it: a fresh project, a running one, a broken one, a real cluster."""

from __future__ import annotations

import stat
import tarfile
from pathlib import Path

import pytest

from tests.project import Project

CLEAN, WARNINGS, FAILURES = 0, 8, 9


def test_a_laptop_from_fresh_to_broken(laptop: Project, tmp_path: Path) -> None:
    """Warnings before `up`, none of the pools' after it, failures once something is opened or killed."""
    fresh = laptop.cli("doctor", check=False)
    assert fresh.returncode == WARNINGS
    assert "`hpcpools up`" in fresh.stdout
    laptop.cli("up")
    laptop.until(lambda: bad(laptop) == {}, "a healthy laptop", 60)
    archive = tmp_path / "bundle.tar.gz"
    laptop.cli("doctor", "--bundle", archive, check=False)
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    with tarfile.open(archive) as packed:
        assert {"hpcpools-doctor/findings.json", "hpcpools-doctor/logs/short.log"} <= set(packed.getnames())
    again = laptop.cli("doctor", "--bundle", archive, check=False)
    assert again.returncode == 4
    laptop.cli("down", "scheduler")
    assert laptop.cli("doctor", check=False).returncode == FAILURES
    assert set(bad(laptop)) == {"schedule"}
    laptop.root.chmod(0o755)
    assert set(bad(laptop)) == {"schedule", "runs"}
    laptop.root.chmod(0o700)


@pytest.mark.slurm
def test_a_cluster_answers_the_probe(site: Project) -> None:
    """The site's settings are judged, and a job on a node sees the shared folder."""
    site.cli("up")
    said = site.cli("doctor", "--probe", "--patience", "90s", check=False).stdout
    assert "sees the runs and runs Python" in said
    assert "nodes with" in said
    assert not list(site.root.glob(".doctor-*"))


def bad(project: Project) -> dict[str, str]:
    """Checks with warnings or failures, but for the space of the machine that runs this test."""
    import json

    answer = json.loads(project.cli("doctor", "--json", check=False).stdout)
    return {
        each["check"]: each["text"]
        for each in answer["findings"]
        if each["level"] != "ok" and not each["check"].startswith("space")
    }
