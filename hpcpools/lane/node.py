"""The entry on the node: the tasks of one batch, one after the other, each in a process of its own.

Owns the order: check the payload, claim a task, run it, write its end. Opens no Redis and runs no Slurm
command. Refuses a batch that is not ours as it was submitted, and every task that is claimed already.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import time
from pathlib import Path

from hpcpools.errors import HpcpoolsError
from hpcpools.lane import task
from hpcpools.runs.batches import Batch, BatchDirectory
from hpcpools.runs.directory import check_owned
from hpcpools.training import nodeenv

MARGIN = 30.0  # seconds before the Slurm job's limit by which the last task must have ended


class _Leave:
    """Set by SIGTERM: Slurm takes the node away (preemption, scancel, the limit)."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # the limit is our own business

    def _ask(self, _number: int, _frame: object) -> None:
        self.asked = True

    def __call__(self) -> bool:
        return self.asked


def main(argv: list[str] | None = None) -> int:
    """``python -m hpcpools.lane.node BATCH_DIR SHA256_OF_BATCH_JSON``."""
    path, wanted = argv or sys.argv[1:]
    os.umask(0o077)
    try:
        folder = Path(path)
        check_owned(folder.parent)
        place = BatchDirectory(folder.parent.parent, folder.name)
        batch = place.read(wanted)
        with nodeenv.private_temp():
            return _run(place, batch)
    except HpcpoolsError as error:
        print(f"hpcpools: {error}", file=sys.stderr)
        return error.exit_code


def _run(place: BatchDirectory, batch: Batch) -> int:
    leaving = _Leave()
    ends_at = time.monotonic() + batch.minutes * 60 - MARGIN
    here = nodeenv.place()
    nodeenv.publish_batch(batch.config, batch.gpus)
    os.chdir(batch.workdir)
    sys.path.extend(folder for folder in batch.python_path if folder not in sys.path)
    if not batch.gpus:  # a module may start CUDA when it is imported, and a fork cannot use it then
        _preload(batch)
    began = False
    for number, job in enumerate(batch.jobs):
        late = began and time.monotonic() + job.timeout + task.HARD > ends_at
        if leaving() or late:
            break
        if not place.start(number, time.time(), job_id=here.job_id, node=here.node, pid=here.pid):
            continue
        began = True
        place.end(number, **task.run(place, number, job, batch.modules, leaving))
    for number in range(len(batch.jobs)):  # what is left need not wait until Slurm tells of our end
        place.withdraw(number, "returned", reason="its Slurm job had no time left for it")
    return 0


def _preload(batch: Batch) -> None:
    """Import the tasks' modules once, so that each fork finds them; a broken one fails its own tasks."""
    for module in dict.fromkeys(job.task.partition(":")[0] for job in batch.jobs):
        if module in batch.modules:
            with contextlib.suppress(Exception, SystemExit):
                importlib.import_module(module)


if __name__ == "__main__":
    sys.exit(main())
