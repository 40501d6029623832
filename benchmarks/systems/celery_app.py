"""Celery prefork with its defaults: JSON, results kept in Redis, prefetch 4 a process."""

from __future__ import annotations

from celery import Celery, group

from benchmarks.systems import noop, socket_path

url = f"redis+socket://{socket_path()}"
app = Celery("bench", broker=url, backend=url)
task = app.task(noop(), name="noop")


def enqueue(number: int) -> None:
    """One task."""
    task.delay(number)


def enqueue_many(numbers: range) -> None:
    """Many, as a group."""
    group(task.s(number) for number in numbers).apply_async()
