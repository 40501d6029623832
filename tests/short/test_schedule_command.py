"""`hpcpools schedule`: what commands declare reaches the scheduler, outlives Redis, and is never a guess."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcpools.short import timetable
from tests.short.schedule_lab import ENTRIES, QUEUE, Lab, eventually


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A private Redis, tasks and schedulers."""
    lab = Lab(tmp_path)
    try:
        yield lab
    finally:
        lab.close()


def place(lab: Lab) -> Path:
    """Where commands keep what they declare."""
    return lab.folder / "runs" / ".schedule"


def test_what_is_added_fires_until_it_is_paused_or_removed(lab: Lab) -> None:
    """Added beside a running scheduler it fires within two polls, comes back after Redis was wiped, rests
    while paused without a missed slot, and leaves nothing behind when it is removed."""
    scheduler = lab.scheduler(lab.configure(far="every = 3600"))
    eventually(lambda: lab.entry("far"))
    done = lab.cli("add", "beat", "beats:beat", "--every", "1s")
    assert (done.returncode, "added beat: every 1s on maintenance, first in " in done.stdout) == (0, True)
    eventually(scheduler.slots)

    lab.connection.flushall()
    eventually(lambda: lab.entry("beat"))
    assert lab.cli("pause", "beat").stdout == "paused beat\n"
    eventually(lambda: not lab.entry("beat"))
    assert lab.cli("pause", "beat").stdout == "beat is paused already\n"
    row = lab.listed()["schedules"]["beat"]
    assert (row["state"], row["next_due"], row["added"]) == ("paused", None, True)
    seen = len(scheduler.slots())

    eventually(lambda: lab.serve() or not lab.connection.llen(QUEUE))
    assert lab.cli("resume", "beat").stdout == "resumed beat\n"
    eventually(lambda: len(scheduler.slots()) > seen)
    assert lab.record("beat").missed == 0
    assert lab.listed()["schedules"]["beat"]["state"] == "on"

    assert lab.cli("pause", "far").returncode == 0
    assert lab.cli("remove", "beat").stdout == "removed beat\n"
    eventually(lambda: lab.connection.zcard(ENTRIES) == 0)
    assert lab.connection.exists(timetable.record_key("beat")) == 0
    assert [each.name for each in place(lab).iterdir()] == ["far.paused"]
    assert scheduler.process.poll() is None
    assert scheduler.end() == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("add far beats:beat --every 5m", 4, "declared already"),
        ("add a/b beats:beat --every 5m", 2, "schedule.a/b"),
        ("add x beats:nothing --every 5m", 4, "no declared task"),
        ("add x beats:needy --every 5m", 2, "path"),
        ("add x beats:beat", 2, "either every"),
        ("add x beats:beat --every 0.5s", 2, "whole seconds"),
        ("add x beats:beat --every 5m --queue nowhere", 2, "no queue"),
        ("add x beats:beat --every 5m --timezone Europe/Berlin", 2, "for cron lines"),
        ("add x beats:beat --cron @daily --timezone Europe/Nowhere", 2, "not known here"),
        ("add x beats:beat --cron @never", 2, "cron"),
        ("remove far", 4, "is declared in"),
        ("remove x", 3, "no schedule"),
        ("pause x", 3, "no schedule"),
        ("pause scan_failed_jobs", 4, "switched off"),
        ("run-now x", 3, "no schedule"),
    ],
)
def test_what_could_not_work_is_refused(words: str, code: int, said: str, lab: Lab) -> None:
    """One line that names the trouble, and nothing is written."""
    lab.configure(far="every = 3600")
    done = lab.cli(*words.split())
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert not place(lab).exists()


def test_dry_runs_change_nothing(lab: Lab) -> None:
    """Each says what it would do."""
    lab.configure(far="every = 3600")
    berlin = ("--cron", "30 2 * * *", "--timezone", "Europe/Berlin")
    done = lab.cli("add", "x", "beats:beat", *berlin, "--dry-run")
    assert "would add x: cron 30 2 * * * Europe/Berlin on maintenance" in done.stdout
    assert lab.cli("pause", "far", "--dry-run").stdout == "would pause far\n"
    assert json.loads(lab.cli("run-now", "far", "--dry-run", "--json").stdout)["task"] == "beats:beat"
    assert not place(lab).exists()
    assert lab.connection.llen(QUEUE) == 0


def test_a_damaged_file_is_named_and_stops_nothing_else(lab: Lab) -> None:
    """So is one whose name the config took later; the config's own is served."""
    lab.configure(far="every = 3600")
    assert lab.cli("add", "later", "beats:beat", "--every", "1h").returncode == 0
    (place(lab) / "torn.json").write_text('{"task": "beats:be')
    (place(lab) / "list.json").write_text("[1]")
    (place(lab) / "gone.json").write_text('{"task": "beats:nothing", "every": 60}')
    (place(lab) / "x\x1b.json").write_text('{"task": "beats:beat", "every": 60}')
    scheduler = lab.scheduler(lab.configure(far="every = 3600", later="every = 1"))
    eventually(scheduler.slots)
    assert scheduler.says("unserved", "gone.json: schedule.gone.task")
    assert scheduler.end() == 0
    shown = lab.listed()
    assert sorted(Path(each.split()[0].rstrip(":")).name for each in shown["problems"] if "torn" in each) == [
        "torn.json"
    ]
    assert len(shown["problems"]) == 4
    assert (shown["schedules"]["later"]["timing"], shown["schedules"]["later"]["added"]) == (
        "every 1s",
        False,
    )
    assert "\x1b" not in lab.cli().stderr


def test_run_now_goes_beside_a_running_firing_and_not_behind_a_waiting_one(lab: Lab) -> None:
    """Its id is its own, the slots stay as they are, and what runs already is said."""
    lab.configure(far="every = 3600")
    lab.cli("pause", "far")
    job = lab.cli("run-now", "far").stdout.strip()
    assert job.startswith("far-now-")
    assert lab.connection.lrange(QUEUE, 0, -1) == [job.encode()]
    again = lab.cli("run-now", "far")
    assert (again.returncode, f"{job} of this schedule waits already" in again.stderr) == (4, True)

    lab.serve()
    lab.connection.hset(f"rq:job:{job}", "status", "started")
    beside = lab.cli("run-now", "far")
    assert f"{job} of this schedule still runs" in beside.stderr
    assert lab.serve() == [beside.stdout.strip()] != [job]
    row = lab.listed()["schedules"]["far"]
    assert (row["run_now"], row["state"], row["fired"]) == (beside.stdout.strip(), "paused", 0)
