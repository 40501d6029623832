"""The grid of slots, as pure functions of given clocks."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hpcpools import config as configuration
from hpcpools.errors import ConfigError
from hpcpools.short import slots
from hpcpools.short.slots import Due, Timing
from hpcpools.short.timetable import Gap, Record

MINUTE = Timing(every=60)
NIGHT = Timing(cron="30 3 * * *")
DAY0 = 1_767_225_600  # 2026-01-01T00:00:00Z, a Thursday


@pytest.mark.parametrize(
    ("now", "newest", "next_"),
    [(DAY0 - 0.001, DAY0 - 60, DAY0), (DAY0, DAY0, DAY0 + 60), (DAY0 + 59.999, DAY0, DAY0 + 60)],
)
def test_every_is_a_grid_of_the_epoch(now: float, newest: int, next_: int) -> None:
    """The slots of `every` do not depend on when the scheduler started; a slot belongs to its own second."""
    assert MINUTE.newest(now) == newest
    assert MINUTE.next(now) == next_


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kathmandu"])
def test_cron_is_utc_whatever_tz_says(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """03:30 in a cron line is 03:30 UTC in every time zone of the process."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        slot = DAY0 + 3 * 3600 + 30 * 60
        assert NIGHT.next(DAY0) == slot
        assert NIGHT.newest(slot) == slot
        assert NIGHT.newest(slot - 0.5) == slot - 86400
        assert NIGHT.next(slot) == slot + 86400
    finally:
        monkeypatch.undo()
        time.tzset()


def test_cron_keeps_its_distance_over_a_change_to_summer_time() -> None:
    """No slot is left out or doubled on the night when clocks in New York go forward (2026-03-08)."""
    night = 1_772_928_000  # 2026-03-08T00:00:00Z
    found, slot = [], night
    while slot < night + 86400:
        slot = Timing(cron="*/30 * * * *").next(slot)
        found.append(slot)
    assert found == [night + 1800 * n for n in range(1, 49)]


def test_after_downtime_only_the_newest_slot_is_due_and_the_others_are_counted() -> None:
    """Ten minutes of downtime of a one-minute schedule: one firing, nine missed."""
    late = Due(DAY0 + 600, missed=9, missed_from=DAY0 + 60, missed_to=DAY0 + 540)
    assert slots.due(MINUTE, DAY0, DAY0 + 605.5) == late
    assert slots.due(Timing(cron="* * * * *"), DAY0, DAY0 + 605.5) == late
    assert slots.due(MINUTE, DAY0, DAY0 + 60) == Due(DAY0 + 60)
    assert slots.due(MINUTE, DAY0, DAY0 + 59.9) is None


def test_counting_missed_cron_slots_ends() -> None:
    """Years of downtime of a cron line are counted up to a bound, not for ever."""
    due = slots.due(Timing(cron="* * * * *"), DAY0 - 400 * 86400, DAY0)
    assert due
    assert (due.slot, due.missed) == (DAY0, slots.MAX_COUNTED)


def test_a_clock_set_back_neither_stops_the_schedule_nor_counts_as_missed() -> None:
    """If the last slot lies in the future, the slot of the new time is due; its id tells if it ran before."""
    assert slots.due(MINUTE, DAY0 + 3600, DAY0 + 1) == Due(DAY0)
    assert slots.next_due(MINUTE, DAY0 + 3600, DAY0 + 1) == DAY0 + 60


def test_next_due_of_a_schedule_that_nobody_fires_stays_in_the_past() -> None:
    """An overdue schedule shows since when."""
    assert slots.next_due(MINUTE, DAY0, DAY0 + 500) == DAY0 + 60
    assert slots.next_due(MINUTE, None, DAY0 + 500) == DAY0 + 540


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ('[schedule.a]\ncron = "61 * * * *"', "cron"),
        ('[schedule.a]\ncron = "R * * * *"', "plain fields"),
        ('[schedule.a]\ncron = "H * * * *"', "plain fields"),
        ('[schedule.a]\ncron = "* * * * * */5"', "five"),
        ('[schedule.a]\ncron = "0 0 30 2 *"', "failed to find next date"),
    ],
)
def test_a_timing_without_slots_is_refused(toml: str, said: str, tmp_path: Path) -> None:
    """The error names file and key, and what is allowed."""
    file = tmp_path / "hpcpools.toml"
    file.write_text(toml)
    config = configuration.load(file)
    name, entry = "a", config.schedules["a"]
    with pytest.raises(ConfigError, match=said) as caught:
        slots.timing(config, name, entry)
    assert str(file) in str(caught.value)
    assert f"schedule.{name}" in str(caught.value)


@pytest.mark.parametrize("cron", ["@hourly", "0 3 * * thu", "*/5  *\t* * *", "0 0 l * *"])
def test_plain_cron_lines_are_accepted(cron: str, tmp_path: Path) -> None:
    """Names of days, aliases and untidy spaces are fine; an r or h inside a name is no random field."""
    file = tmp_path / "hpcpools.toml"
    file.write_text(f'[schedule.a]\ncron = "{cron}"')
    config = configuration.load(file)
    assert slots.timing(config, "a", config.schedules["a"]).next(DAY0) > DAY0


def test_a_record_survives_its_hash_and_hostile_fields_count_as_unknown() -> None:
    """What is written is read back; a hash that someone tampered with is as good as none."""
    passed = Due(DAY0, missed=2, missed_from=DAY0 - 120, missed_to=DAY0 - 60)
    record = Record("every 60s", DAY0 - 180, skipped=3).after_firing(passed, f"a-{DAY0}", DAY0 + 0.25)
    assert record.gaps == (Gap(2, DAY0 - 120, DAY0 - 60, DAY0),)
    assert (record.late, record.missed) == ((0.25,), 2)
    raw = {str(name).encode(): str(value).encode() for name, value in record.to_hash().items()}
    assert Record.from_hash(raw) == record
    assert Record.from_hash({}) == Record()
    assert Record.from_hash({b"last_slot": b"\xff; rm", b"timing": b"every 60s"}) == Record()
    assert Record.from_hash({b"last_slot": b"-99999999999999999"}) == Record()
    for text in (b"[[1]]", b"[1]", b"{", b"[[1,2,3,-4]]", b"[" * 99_999):
        assert Record.from_hash({b"fired": b"2", b"gaps": text}) == Record()
        assert Record.from_hash({b"fired": b"2", b"late": text}).late in ((), (1.0,))


def test_upkeep_of_many_pools_is_spread(tmp_path: Path) -> None:
    """LOAD-2: of fifty pools at most ten are due in any second; a user's own schedule is not moved."""
    text = '[schedule.mine]\ntask = "mod:beat"\nevery = 60\n'
    seconds = []
    for number in range(50):
        settings = configuration.parse_text(text, tmp_path / f"pool-{number}" / "hpcpools.toml")
        upkeep = slots.timing(settings, "update_job_metrics", settings.schedules["update_job_metrics"])
        seconds.append(upkeep.next(1_000_000_000) % 60)
        assert slots.timing(settings, "mine", settings.schedules["mine"]).next(1_000_000_000) % 60 == 0
        assert upkeep.newest(upkeep.next(5.0)) == upkeep.next(5.0)
        assert upkeep.between(upkeep.next(0), upkeep.next(0) + 180) == 2
    assert max(map(seconds.count, seconds)) <= 10
