"""Checkpoints that take longer than the site waits: said beforehand, with the real numbers of the site."""

from __future__ import annotations

import json

from tests.cluster.cluster import Cluster
from tests.project import Project


def test_what_the_lab_gives_is_compared_with_what_was_measured(site: Project, cluster: Cluster) -> None:
    """KillWait 5, and in the partition `low`, which `gpu` preempts, GraceTime 2; a checkpoint takes 20 s."""
    quick = site.cli("train", "usertasks:learn", "--gpus", "1", "--partition", "low", "--check").stdout
    assert "preemptible: GraceTime 2 s + KillWait 5 s" in quick
    assert "!!" not in quick  # nothing is measured yet
    token = site.train("usertasks:learn", "steps=1")
    site.cli("wait", token)
    manifest = site.root / token / "checkpoints" / "step-000000001" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "seconds": 20.0}))
    checked = site.cli("train", "usertasks:learn", "--gpus", "1", "--partition", "low", "--check").stdout
    assert f"20 s (95th percentile of 1 in {token})" in checked
    short = [line for line in checked.splitlines() if line.startswith("!!")]
    assert len(short) == 3
    assert "10 s before its time limit: set training.signal_lead to 70 s" in short[0]
    assert "GraceTime 2 s + KillWait 5 s" in short[1]
    submitted = site.cli("train", "usertasks:learn", "steps=1")
    assert submitted.stdout.startswith("hp-")
    assert submitted.stderr.count("warning: ") == 3  # two numbers too short in `gpu`, and the measurement
    assert "preemptible" not in submitted.stderr
    site.cli("wait", submitted.stdout.strip())
