"""One local training, start to end: ``python -m hpcpools.training.local RUN_DIR``, started by the slot.

Starts submitit's local executor, whose controller enforces the time limit, and waits for it.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from hpcpools.runs.directory import RunDirectory
from hpcpools.training.executors import NodeLocalExecutor


def main() -> int:
    """Returns when the training has ended; TERM ends it."""
    path = Path(sys.argv[1])
    run = RunDirectory(path.parent, path.name)
    number = run.last_submission()
    if number < 0:
        number = run.next_submission(time.time()) or 0
    controller = NodeLocalExecutor(run, run.request()).start(number)
    signal.signal(signal.SIGTERM, lambda _number, _frame: controller.terminate())
    run.submitted(number, str(controller.pid), "local", time.time())
    return controller.wait()


if __name__ == "__main__":
    sys.exit(main())
