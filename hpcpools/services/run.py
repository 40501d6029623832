"""One Python service in its own process: ``python -m hpcpools.services.run NAME --config FILE``.

Owns the way from a name to its ``run(config)``. Refuses names that the table does not have.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

from hpcpools import atomic, eventlog
from hpcpools import config as configuration
from hpcpools.errors import HpcpoolsError
from hpcpools.services.table import MODULES, ready_mark


def main() -> int:
    """Import the service, mark it ready, run it until it returns."""
    parser = argparse.ArgumentParser(prog="hpcpools.services.run")
    parser.add_argument("name", choices=sorted(MODULES))
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--json-log", action="store_true", help="events as JSON, for the supervisor's log")
    options = parser.parse_args()
    os.umask(0o077)
    eventlog.to_stderr(as_json=options.json_log)
    try:
        config = configuration.load(options.config)
        configuration.activate(config)
        module = importlib.import_module(MODULES[options.name])
        atomic.write_json(ready_mark(config, options.name), {"pid": os.getpid()})
        return int(module.run(config) or 0)
    except HpcpoolsError as error:
        eventlog.log.error(eventlog.event("cannot-run", error=error.message, hint=error.hint))
        return error.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
