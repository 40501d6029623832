"""The options of a job as pure values: what is refused, what they come to. No Redis."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from hpcpools import config as configuration
from hpcpools import task
from hpcpools.declare import MARK, TaskDeclaration
from hpcpools.errors import UsageError
from hpcpools.short.options import JobOptions, retry_waits

CONFIG = configuration.parse({}, Path("hpcpools.toml"), {})
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"queue": "training"}, "queue="),
    ({"timeout": -1}, "-1"),  # rq: for ever
    ({"timeout": 0}, "0"),
    ({"result_ttl": 0}, "0"),  # rq: gone at once
    ({"result_ttl": -1}, "-1"),  # rq: kept for ever
    ({"failure_ttl": "never"}, "never"),
    ({"retries": -1}, "retries="),
    ({"retries": 101}, "retries="),
    ({"retries": True}, "retries="),
    ({"retry_intervals": []}, "retry_intervals="),
    ({"retry_intervals": 5}, "retry_intervals="),
    ({"retry_intervals": [-1]}, "-1"),
    ({"job_id": "a:b"}, "job_id="),
    ({"unique": True}, "unique needs a job_id"),
    ({"depends_on": ["good", "a b"]}, "depends_on="),
    ({"depends_on": "hp-01m86c0w7fw0hm6rhdx3xnjs7v"}, "is no short job"),
    ({"depends_on": "good", "at": "2100-01-01T00:00"}, "do not go together"),
    ({"delay": "5m", "at": "2100-01-01T00:00"}, "do not go together"),
    ({"delay": 0}, "0"),
    ({"at": "2001-01-01T00:00"}, "lies in the past"),
    ({"at": "tomorrow"}, "is no time"),
    ({"meta": {"a": {1, 2}}}, "is not plain JSON"),
    ({"meta": {"a": float("nan")}}, "is not plain JSON"),
    ({"meta": {"a": "x" * 70_000}}, "larger than"),
]


@pytest.mark.parametrize(("options", "said"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_options(options: dict[str, Any], said: str) -> None:
    """Each is refused by name, before anything is written."""
    with pytest.raises(UsageError) as caught:
        JobOptions(**options).check(CONFIG)
    assert said in str(caught.value)


def test_times_are_whole_seconds_and_never_early() -> None:
    """A delay is rounded up; a time without an offset is local, one with an offset is what it says."""
    before = time.time()
    due = JobOptions(delay=1.2).due()
    assert due and due.tzinfo and due.microsecond == 0 and 1.2 <= due.timestamp() - before < 2.3
    noon = datetime(2100, 1, 1, 12, tzinfo=timezone.utc)
    for same in (noon, noon.isoformat(), "2100-01-01T12:00Z", "2100-01-01T14:00+02:00"):
        assert JobOptions(at=same).due() == noon
    local = datetime(2100, 1, 1, 12)
    assert JobOptions(at=local).due() == JobOptions(at="2100-01-01T12:00").due() == local.astimezone()
    assert JobOptions(at=noon + timedelta(milliseconds=1)).due() == noon + timedelta(seconds=1)


@pytest.mark.parametrize(
    ("retries", "waits", "declared", "expected"),
    [
        (None, None, TaskDeclaration(), [0, 10]),  # 2 by the config
        (None, None, TaskDeclaration(retries=0), []),
        (6, None, TaskDeclaration(), [0, 10, 60, 300, 300, 300]),
        (None, None, TaskDeclaration(retry_intervals=(5, 7)), [5, 7]),
        (None, None, TaskDeclaration(retries=3, retry_intervals=(5, 7)), [5, 7, 7]),
        (1, None, TaskDeclaration(retries=3, retry_intervals=(5, 7)), [5]),
        (None, (0, 9), TaskDeclaration(retries=5, retry_intervals=(5,)), [0, 9]),
        (0, (0, 9), TaskDeclaration(), []),
    ],
)
def test_who_says_how_often(
    retries: int | None, waits: tuple[int, ...] | None, declared: TaskDeclaration, expected: list[int]
) -> None:
    """The call, then the declaration, then the config; intervals alone say how many, too."""
    assert retry_waits(retries, waits, declared, 2) == expected


def test_declared_intervals() -> None:
    """``@task(retry_intervals=...)`` reads lengths of time; a wrong one is refused where it is declared."""
    declared = getattr(task(retry_intervals=[0, 2.5, "5m"])(test_declared_intervals), MARK)
    assert declared.retry_intervals == (0, 3, 300)
    delattr(test_declared_intervals, MARK)
    for wrong in ([], ["soon"], "5m"):
        with pytest.raises(UsageError):
            task(retry_intervals=wrong)(test_declared_intervals)
