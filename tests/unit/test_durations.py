"""Lengths of time as people and Slurm write them."""

from __future__ import annotations

import pytest

from hpcpools import durations
from hpcpools.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), (5, 5), ("30s", 30), ("5m", 300), ("1h30m", 5400), ("12:00:00", 43200), ("1-12:00", 129600)],
)
def test_lengths_are_read(text: str | int, seconds: float) -> None:
    """Words, numbers and Slurm's clock."""
    assert durations.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "5x", "-1", "0", "12:30", "1e99", True, "inf", "nan"])
def test_wrong_lengths_are_refused(text: str | bool) -> None:
    """Ambiguous ones too: 12:30 is minutes to Slurm and hours to people."""
    with pytest.raises(UsageError):
        durations.seconds(text)


def test_wall_time_is_rounded_up_to_minutes() -> None:
    """Slurm counts minutes; nobody gets less than asked for."""
    assert durations.minutes("61s") == 2
    assert durations.minutes("60s") == 1
    assert durations.clock(1501) == "1-01:01:00"


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("1-00:00:00", 1440),
        ("30:00", 30),
        ("1:00:00", 60),
        ("infinite", None),
        ("2-0", 2880),
        ("4:00:00", 240),
    ],
)
def test_slurm_limits_are_read(text: str, minutes: int | None) -> None:
    """sinfo(1) leaves leading parts out."""
    assert durations.slurm_minutes(text) == minutes
