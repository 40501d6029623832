"""taskiq with taskiq-redis: a list as queue, results kept; its client is asynchronous."""

from __future__ import annotations

import asyncio

from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

from benchmarks.systems import noop, socket_path

url = f"unix://{socket_path()}"
broker = ListQueueBroker(url).with_result_backend(RedisAsyncResultBackend(url))
task = broker.task(task_name="noop")(noop())
loop = asyncio.new_event_loop()


def enqueue(number: int) -> None:
    """One task."""
    loop.run_until_complete(task.kiq(number))


def enqueue_many(numbers: range) -> None:
    """One after the other in one run of the loop."""

    async def all_of_them() -> None:
        for number in numbers:
            await task.kiq(number)

    loop.run_until_complete(all_of_them())
