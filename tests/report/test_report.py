"""`hpcpools report`: the numbers are those of the records, and the file is one file."""

from __future__ import annotations

import csv
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpcpools.config import Config
from hpcpools.report import facts, html, table
from hpcpools.report.facts import BINS, Report, quantile
from hpcpools.runs.usage import Hours
from tests.project import Project
from tests.report.scene import EVIL, FORMULA, HOUR
from tests.short.lab import TASKS

VOID = {"meta", "img", "br", "link", "line", "rect"}


class Page(HTMLParser):
    """Elements, attributes and text; every element that was opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """One more."""
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open and closed."""
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        """It is the one that was opened last."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Text."""
        self.words.append(data)


@pytest.fixture
def report(config: Config, now: float) -> Report:
    """Of the last day."""
    return facts.read(config, now - 24 * HOUR, now)


def test_the_numbers_are_those_of_the_records(report: Report) -> None:
    """Hours by run and state, waits, short tasks, failures, the timeline; the old run is outside."""
    runs = {run.name: run for run in report.runs}
    assert set(runs) == {"good", "unmeasured", EVIL, FORMULA, "on-cpus", "waits"}
    assert runs["good"].hours == Hours(8.0, 8.0, 6.0) and runs["good"].attempts == 2
    assert runs["unmeasured"].hours == Hours(4.0) and runs[EVIL].hours == Hours(2.0)
    assert runs["on-cpus"].hours == Hours() and runs["waits"].waited is None
    assert report.runs[0].name == "good"
    states = {hold.state: (hold.runs, hold.hours.held) for hold in report.states}
    assert states == {"COMPLETED": (2, 8.0), "FAILED": (2, 6.0), "CANCELLED": (1, 0.0), "PENDING": (1, 0.0)}
    (wait,) = report.waits  # 1, 3, 2 and 1 hours
    assert (wait.runs, wait.p50, wait.p95, wait.longest) == (4, HOUR, 3 * HOUR, 3 * HOUR)
    ran, waited = report.tasks
    assert (ran.name, ran.count, ran.p50, ran.p95) == (f"{TASKS}:say", 4, 0.5, math.inf)
    assert ran.mean == pytest.approx(500.10025) and (waited.kind, waited.p50) == ("waited", 5.0)
    counts = {group.pools: len(group.failures) for group in report.failures if group.pools == "short"}
    assert counts == {"short": 2}
    assert sum(len(group.failures) for group in report.failures) == 4
    width = 24 / BINS
    assert sum(each.gpus for each in report.timeline) * width == pytest.approx(8 + 4 + 2)
    assert [sum(getattr(each, kind) for each in report.timeline) for kind in ("finished", "failed")] == [1, 2]


def test_what_was_not_measured_is_not_invented(report: Report) -> None:
    """Efficiency in words: whole, in part, not at all."""
    assert html.efficiency(Hours(8.0, 8.0, 6.0)) == "75 %"
    assert html.efficiency(Hours(14.0, 8.0, 6.0)) == "75 % of 57 % measured"
    assert html.efficiency(Hours(4.0)) == "unmeasured" and html.efficiency(Hours()) == "-"
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0 and quantile([7.0], 0.95) == 7.0


def test_the_page_is_one_file_in_which_names_are_text(report: Report) -> None:
    """Well formed; nothing from outside, no script; hostile names stand in it as text."""
    text = html.page(report)
    page = Page(text)
    assert {"script", "img", "link", "iframe", "object"}.isdisjoint(page.tags) and page.tags.count("svg") == 3
    assert all(name not in ("src", "href", "xlink:href", "action", "data") for name, _ in page.attributes)
    assert not any(name.startswith("on") for name, _ in page.attributes)
    attributes = " ".join(value or "" for _, value in page.attributes)
    assert "//" not in attributes and not re.search(r"url\(|@import", text)
    assert "<script src='https://evil.example/x.js'>alert(1)</script>" in "".join(page.words)
    assert not any(char in text for char in "\x1b\u202e")
    assert "14.0" in page.words and "unmeasured" in page.words  # GPU-hours held; of the second run


def test_csv_round_trips(report: Report, tmp_path: Path) -> None:
    """Each table comes back as it was; what looks like a formula is none."""
    files = table.write_csv(report, tmp_path / "csv")
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    for each, path in zip(table.tables(report), files, strict=True):
        with path.open(newline="") as file:
            head, *rows = list(csv.reader(file))
        assert head == list(each.columns) and len(rows) == len(each.rows)
        for row, wanted in zip(rows, each.rows, strict=True):
            for cell, value in zip(row, wanted, strict=True):
                if isinstance(value, (int, float)):
                    assert float(cell) == value
                elif value is None:
                    assert cell == ""
                else:
                    assert not cell.startswith(("=", "+", "-", "@"))
    assert f"'{FORMULA}" in next(csv.reader([line for line in files[0].open() if "HYPERLINK" in line]))


def test_without_redis_the_trainings_are_there(config: Config, now: float, tmp_path: Path) -> None:
    """The short pool's part says why it is missing."""
    url = f"unix://{tmp_path}/none.sock"
    away = msgspec.structs.replace(config, redis=msgspec.structs.replace(config.redis, url=url))
    found = facts.read(away, now - 24 * HOUR, now)
    assert len(found.runs) == 6 and found.tasks == () and "answer" in found.missing
    page = Page(html.page(found))
    assert page.tags.count("svg") == 2 and any("missing: " in word for word in page.words)


def test_the_command(laptop: Project) -> None:
    """A training and no Redis: a file, CSV, JSON; a place that cannot be written is an error."""
    token = laptop.train("usertasks:learn")
    laptop.cli("wait", token)
    done = laptop.cli("report", "--since", "1h", "--out", "r.html", "--csv", "tables")
    assert done.stdout.split()[0] == "r.html" and "tables/runs.csv" in done.stdout
    assert token in "".join(Page((laptop.folder / "r.html").read_text()).words)
    told: dict[str, Any] = json.loads(laptop.cli("report", "--json").stdout)
    assert [row["run"] for row in told["runs"]] == [token] and told["runs"][0]["state"] == "COMPLETED"
    assert not (laptop.folder / "report.html").exists()
    assert laptop.cli("report", "--out", "/nowhere/r.html", check=False).returncode == 1
    laptop.cli("plot", token, "--out", "loss.png")
    assert (laptop.folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    refused = laptop.cli("plot", token, "--metric", "none", check=False)
    assert refused.returncode == 2 and "it logged loss" in refused.stderr
