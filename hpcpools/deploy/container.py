"""The main process of a container: the services until SIGTERM, then a training that runs may save.

``python -m hpcpools.deploy.container`` runs all services; with a name that one only, where the others have
containers of their own. A container's processes are killed once the main one ends, so unlike `hpcpools up`
this one waits for the training. Refuses to wait longer than a stop may take.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time

from hpcpools import config as configuration
from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError
from hpcpools.services import daemon, table
from hpcpools.training import engine, localruns, slot

PATIENCE = 120.0  # seconds for a training to save; with the services' own end less than stop_grace_period
LOOK_EVERY = 0.2  # seconds


def main() -> int:
    """Serve, then let go; the exit code."""
    parser = argparse.ArgumentParser(prog="hpcpools.deploy.container")
    parser.add_argument("service", nargs="?", default="", choices=("", "redis", *table.MODULES))
    alone = str(parser.parse_args().service)
    try:
        config = configuration.load()
        configuration.activate(config)
        names = (alone,) if alone else table.default_names(config, engine.choose(config))
        daemon.foreground(config, names, alone=alone)
        if alone in ("", "slot"):  # in whose container the training runs
            dismiss(config)
    except HpcpoolsError as error:
        print(f"{error.message}\n  {error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


def dismiss(config: Config, patience: float = PATIENCE) -> None:
    """Warn the training that runs here, as Slurm warns before the time limit, and wait for its end.

    Its run ends as stopped; `hpcpools retry RUN` goes on from the checkpoint.
    """
    deadline = time.monotonic() + patience
    warned: set[int] = set()
    while time.monotonic() < deadline:
        running = [
            view.attempt.pid for view in slot.pending(config) if view.attempt and localruns.alive(view)
        ]
        for pid in set(running) - warned:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR2)
            warned.add(pid)
        if not running:
            return
        time.sleep(LOOK_EVERY)


if __name__ == "__main__":
    sys.exit(main())
