"""Cron lines on a wall clock that leaps: the nights of Europe/Berlin in 2026, as pure functions."""

from __future__ import annotations

from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path

import pytest

from hpcpools import config as configuration
from hpcpools.errors import ConfigError
from hpcpools.short import slots
from hpcpools.short.slots import Timing

BERLIN = "Europe/Berlin"
MARCH = 1_774_738_800  # 2026-03-28T23:00:00Z, midnight there; at 02:00 the clock shows 03:00
OCTOBER = 1_792_879_200  # 2026-10-24T22:00:00Z, midnight there; at 03:00 the clock shows 02:00


def fired(cron: str, night: int, hours: int = 6, zone: str = BERLIN) -> list[str]:
    """Every slot in the ``hours`` after midnight, in UTC."""
    timing, found = Timing(cron=cron, zone=zone), [night - 1]
    while (slot := timing.next(found[-1])) < night + hours * 3600:
        found.append(slot)
    assert all(timing.newest(slot) == slot for slot in found[1:])
    assert all(timing.newest(later - 1) == slot for slot, later in pairwise(found[1:]))
    assert timing.between(night - 1, night + hours * 3600) == len(found) - 1
    return [datetime.fromtimestamp(slot, timezone.utc).strftime("%H:%M") for slot in found[1:]]


@pytest.mark.parametrize(
    ("cron", "slots"),
    [
        ("0 1 * * *", ["00:00"]),
        ("30 2 * * *", ["01:00"]),  # never shown: at the leap
        ("30 2,3 * * *", ["01:00", "01:30"]),
        ("0 2,3 * * *", ["01:00"]),  # both at one moment
        ("0 4 * * *", ["02:00"]),
        ("0 * * * *", ["23:00", "00:00", "01:00", "02:00", "03:00", "04:00"]),
        ("*/20 1-3 * * *", ["00:00", "00:20", "00:40", "01:00", "01:20", "01:40"]),
    ],
)
def test_what_the_clock_leaps_over_in_march_fires_once_at_the_leap(cron: str, slots: list[str]) -> None:
    """02:30 is not shown that night; it fires at 03:00 summer time, which is 01:00 UTC."""
    assert fired(cron, MARCH) == slots


@pytest.mark.parametrize(
    ("cron", "slots"),
    [
        ("0 1 * * *", ["23:00"]),
        ("30 2 * * *", ["00:30"]),  # shown twice: at the first showing
        ("0 3 * * *", ["02:00"]),
        ("0 * * * *", ["22:00", "23:00", "00:00", "02:00", "03:00"]),
        ("30 1-3 * * *", ["23:30", "00:30", "02:30"]),
    ],
)
def test_what_the_clock_shows_twice_in_october_fires_once(cron: str, slots: list[str]) -> None:
    """02:30 is shown at 00:30 and 01:30 UTC; it fires at the first."""
    assert fired(cron, OCTOBER) == slots


def test_the_rest_of_the_year_follows_the_zone() -> None:
    """03:30 there is 02:30 UTC in winter and 01:30 in summer; UTC itself never leaps."""
    night = Timing(cron="30 3 * * *", zone=BERLIN)
    assert fired("30 3 * * *", MARCH - 86400) == ["02:30"]
    assert fired("30 3 * * *", MARCH + 86400) == ["01:30"]
    assert fired("0 * * * *", MARCH, zone="UTC") == fired("0 * * * *", MARCH)
    assert len(fired("0 * * * *", OCTOBER, zone="UTC")) == 6
    first, last = night.next(MARCH - 100 * 86400), night.newest(MARCH + 265 * 86400)
    assert night.between(first - 1, last + 1) == 365
    assert str(night) == "cron 30 3 * * * Europe/Berlin"


def test_a_slot_missed_in_the_hour_that_comes_twice_is_counted_once() -> None:
    """A scheduler that was down from 01:00 to the second 02:40 fires the first 02:30, late, and no other."""
    timing = Timing(cron="*/30 * * * *", zone=BERLIN)
    due = slots.due(timing, OCTOBER + 3600, OCTOBER + 3 * 3600 + 2400)
    assert due == slots.Due(OCTOBER + 9000, 2, OCTOBER + 5400, OCTOBER + 7200)


@pytest.mark.parametrize(
    ("zone", "said"),
    [("Mars/Base", "not known here"), ("../passwd", "Expected"), ("Europe", "not known here")],
)
def test_a_zone_that_nobody_knows_is_refused(zone: str, said: str, tmp_path: Path) -> None:
    """The error names file and key."""
    file = tmp_path / "hpcpools.toml"
    file.write_text(f'[schedule.a]\ncron = "@daily"\ntimezone = "{zone}"')
    with pytest.raises(ConfigError, match=said) as caught:
        configuration.load(file)
    assert f"{file}: schedule.a" in str(caught.value)
