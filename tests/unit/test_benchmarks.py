"""The arithmetic of the benchmarks, and that docs/performance.md shows what was measured."""

from __future__ import annotations

import json

import pytest

from benchmarks import figures, report, targets
from benchmarks.stamps import Stamp, rate


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
