"""One rank of a distributed training: started by torchrun, once per GPU, or once on each of several nodes."""

from __future__ import annotations

import ctypes
import signal
import sys
from pathlib import Path

from hpcpools.runs import attempts
from hpcpools.runs.directory import RunDirectory
from hpcpools.training import imports, launch
from hpcpools.training.context import current_run
from hpcpools.training.ending import write_rank_ending


def main() -> int:
    """Run the callable as this rank; the exit code tells torchrun, the file tells the entry."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # die with torchrun, prctl(2)
    run = current_run()
    directory = RunDirectory(Path(run.path).parent, run.token)
    submission = int(run.attempt.name.partition(".")[0])
    request = attempts.as_submitted(directory, directory.request(), submission)
    imports.publish(directory, request)
    ending = launch.in_process(request, run)
    write_rank_ending(run.attempt, run.rank, ending)
    return ending.exit_code


if __name__ == "__main__":
    sys.exit(main())
