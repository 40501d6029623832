"""RQ as it comes: `rq worker`, one fork a job."""

from __future__ import annotations

from redis import Redis
from rq import Queue

from benchmarks.systems import noop, socket_path

queue = Queue(connection=Redis(unix_socket_path=socket_path()))
task = noop()


def enqueue(number: int) -> None:
    """One task."""
    queue.enqueue(task, number)


def enqueue_many(numbers: range) -> None:
    """Many, by RQ's own call for it."""
    queue.enqueue_many([Queue.prepare_data(task, (number,)) for number in numbers])
