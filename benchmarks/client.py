"""One enqueuing client in a process of its own: `python -m benchmarks.client APP ACTION FIRST COUNT`.

``APP`` is a module of ``benchmarks.systems`` with ``enqueue`` and ``enqueue_many``. Prints JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import stamps

PATIENCE = 30.0  # seconds for one task to start
PAUSE = 0.005  # seconds between two tasks: the workers are idle again


def main(app_name: str, action: str, first: int, number: int) -> dict[str, Any]:
    """Do it and tell how long it took."""
    app = importlib.import_module(f"benchmarks.systems.{app_name}")
    if action == "latency":
        return {"seconds": [_latency(app, first + each) for each in range(number)]}
    if action == "single":
        app.enqueue(first)  # connects, and loads scripts; not in the count
        begin = time.perf_counter()
        for each in range(1, number):
            app.enqueue(first + each)
    else:
        app.enqueue_many(range(first, first + 1))
        begin = time.perf_counter()
        app.enqueue_many(range(first + 1, first + number))
    return {"rate": (number - 1) / (time.perf_counter() - begin)}


def _latency(app: Any, number: int) -> float:
    """Seconds from just before the call to the start of the task, one at a time."""
    file = Path(os.environ[stamps.VARIABLE])
    before = stamps.count(file)
    time.sleep(PAUSE)
    begin = time.time()
    app.enqueue(number)
    give_up = begin + PATIENCE
    while stamps.count(file) <= before:
        if time.time() > give_up:
            raise TimeoutError(f"task {number} did not start")
        time.sleep(0.001)
    return stamps.read(file, before)[0].at - begin


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
