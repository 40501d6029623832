"""dramatiq with its Redis broker and one thread a process; it keeps no results by default."""

from __future__ import annotations

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks.systems import noop, socket_path

dramatiq.set_broker(RedisBroker(url=f"unix://{socket_path()}"))
task = dramatiq.actor(noop(), actor_name="noop")


def enqueue(number: int) -> None:
    """One task."""
    task.send(number)


def enqueue_many(numbers: range) -> None:
    """One after the other."""
    for number in numbers:
        task.send(number)
