"""huey with its Redis storage; it has no call for many tasks at once."""

from __future__ import annotations

from huey import RedisHuey

from benchmarks.systems import noop, socket_path

huey = RedisHuey("bench", url=f"unix://{socket_path()}")
task = huey.task()(noop())


def enqueue(number: int) -> None:
    """One task."""
    task(number)


def enqueue_many(numbers: range) -> None:
    """One after the other."""
    for number in numbers:
        task(number)
