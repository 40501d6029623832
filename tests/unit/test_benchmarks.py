"""The arithmetic of the benchmarks, and that docs/performance.md shows what was measured."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import figures, planting, report, targets
from benchmarks.stamps import Stamp, rate
from benchmarks.systems import LATE, SYSTEMS
from hpcpools import config
from hpcpools.maintenance import gc, metrics
from hpcpools.maintenance.measures import measured
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.view import read_view


def test_the_page_shows_the_results() -> None:
    """Nobody edits a table by hand, and no result is kept without being shown."""
    page, results = report.PAGE.read_text(), json.loads(figures.LATEST.read_text())
    assert report.render(page, results) == page
    assert report.IMAGE.exists()


def test_the_page_without_results_says_so() -> None:
    """Every table can be rendered from nothing."""
    page = report.render(report.PAGE.read_text(), {})
    assert page.count("Not measured yet.") == len(report.PARTS) - 1
    assert page.count("not measured") == len(targets.TARGETS)
    with pytest.raises(ValueError, match="targets"):
        report.render("no marks", {})


def test_torch_s_own_memory_is_told_beside_the_ratio() -> None:
    """Where a target lies below what one process takes, the page says so."""
    celery = {"celery": {"pss_mib": {"median": 400.0}}}
    for floor, below in ((200.0, True), (100.0, False)):
        measured = {"systems": celery, "floor": {"pss_mib": {"median": floor}}}
        text = report.torch({"short_tasks": {"torch": measured}})
        assert f"only imports torch takes {floor:.0f} MiB" in text
        assert ("160 MiB, is less than torch takes once" in text) is below


def test_a_variant_is_measured_with_its_own_kind_alone() -> None:
    """Its module of tasks replaces that of the kind."""
    late, ours = SYSTEMS[LATE], SYSTEMS[targets.US]
    assert (late.tasks_for("torch"), late.tasks_for("plain")) == ("torch_late", "")
    assert (ours.tasks_for("torch"), ours.tasks_for("plain")) == ("torch", "plain")


def test_ratios_are_paired_within_a_round() -> None:
    """A slow round of both hides nothing; a system that missed a round is compared in the others."""
    rounds = [
        {"ours": {"rate": 300.0}, "base": {"rate": 100.0}},
        {"ours": {"rate": 30.0}, "base": {"rate": 15.0}},
        {"base": {"rate": 1000.0}},
    ]
    found = figures.summary(rounds, "base")
    assert found["ours"]["rate"]["ratio"] == {"median": 2.5, "low": 2.0, "high": 3.0, "of": 2.0}
    assert found["ours"]["rate"]["median"] == 165
    assert found["base"]["rate"]["of"] == 3


def test_the_rate_leaves_out_both_ends() -> None:
    """One start a millisecond, with a late first and a late last worker: 1000 a second."""
    stamps = [Stamp(10 + number / 1000, number, 1) for number in range(1000)]
    stamps[:10] = [Stamp(1.0, 0, 1)] * 10
    stamps[-10:] = [Stamp(99.0, 0, 1)] * 10
    assert rate(stamps) == pytest.approx(1000)


def test_a_target_is_met_or_missed() -> None:
    """At least and at most; a quotient of two results; nothing measured."""
    least = targets.Target("", 3, ("a",), ("b",), at_least=True, unit="x")
    assert (least.text, least.measured({"a": 9, "b": 3}), least.met(3), least.met(2.9)) == (
        "≥ 3x",
        3,
        True,
        False,
    )
    most = targets.Target("", 1, ("a", "c"))
    assert (most.measured({"a": {"c": 0.5}}), most.met(0.5), most.met(1.1)) == (0.5, True, False)
    assert most.measured({}) is None
    assert least.measured({"a": 9, "b": 0}) is None


def test_the_planted_site_is_one_that_the_product_reads(tmp_path: Path) -> None:
    """Every run in the state that was meant, measured, and all but the live ones old enough to go."""
    settings = config.parse({}, tmp_path / "hpcpools.toml", {})
    tokens = planting.runs(settings, planting.LIVE + 240)
    views = [read_view(RunDirectory(settings.root, token)) for token in tokens]
    states = Counter(view.state.value for view in views)
    assert states.pop("RUNNING") == states.pop("PENDING") == planting.LIVE / 2
    assert states == {"COMPLETED": 156, "FAILED": 48, "TIMEOUT": 12, "CANCELLED": 12, "OUT_OF_MEMORY": 12}
    assert {view.cause.value for view in views if view.state.value == "FAILED"} == {"user error"}
    run = RunDirectory(settings.root, tokens[0])
    found = metrics.summary(settings, views[0]) | measured(run, views[0], time.time())
    assert found["step"] == 1000 and found["gpu_hours"]["held"] > 0 and found["gpu_hours"]["used"] > 0
    old = gc.collect(settings, 1.0, dry_run=True, now=time.time() + 60)
    assert (len(old.runs), len(old.sweeps), old.problems) == (240, 1, [])
