"""The supervisor as a detached process: ``python -m hpcpools.services.daemon --config FILE``.

Owns detaching, the lock and the socket around the loop. Refuses to be the second one in a directory.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from hpcpools import config as configuration
from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError
from hpcpools.redisdb import runtime
from hpcpools.services import channel, lock, table
from hpcpools.services.logs import LineLog
from hpcpools.services.supervisor import Supervisor
from hpcpools.services.table import Service, base_environment


def main(services: Callable[[Config], Sequence[Service]] = table.services) -> int:
    """Detach, then supervise ``services``; tells ``--ready-fd`` once it listens."""
    parser = argparse.ArgumentParser(prog="hpcpools.services.daemon")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--ready-fd", type=int, default=None)
    options = parser.parse_args()
    if os.fork():
        os._exit(0)  # the caller reaps this one; the supervisor is nobody's child
    os.umask(0o077)
    try:
        config = configuration.load(options.config)
    except HpcpoolsError as error:
        print(error, file=sys.stderr)  # the log, as our caller opened it
        return error.exit_code
    try:
        return supervise(config, services(config), options.ready_fd)
    except HpcpoolsError as error:
        LineLog.of(config, "supervisor").note(str(error))
        return error.exit_code
    except Exception:
        for line in traceback.format_exc().splitlines():
            LineLog.of(config, "supervisor").note(line)
        raise


def supervise(config: Config, services: Sequence[Service], ready_fd: int | None) -> int:
    """Be the supervisor of ``config.runtime_dir`` until it is told to end; 0 also if there is one already."""
    directory = runtime.secure_directory(config.runtime_dir)
    runtime.secure_directory(directory / "logs")
    address = runtime.socket_path(directory, channel.SOCKET_NAME)
    held = lock.acquire(directory / lock.NAME)
    if held is None:
        LineLog.of(config, "supervisor").note("another supervisor runs here already")
    else:
        server = channel.listen(address)
        _tell(ready_fd)
        Supervisor(config, services, base_environment(configuration.environment())).serve(server)
        address.unlink(missing_ok=True)
        lock.release(held)
    return 0


def _tell(ready_fd: int | None) -> None:
    if ready_fd is not None:
        os.write(ready_fd, channel.READY)
        os.close(ready_fd)


if __name__ == "__main__":
    sys.exit(main())
