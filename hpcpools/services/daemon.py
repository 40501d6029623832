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
from hpcpools.errors import HpcpoolsError, RefusedError
from hpcpools.redisdb import runtime
from hpcpools.services import channel, lock, place, table
from hpcpools.services.beacon import Beacon
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
        supervise(config, services(config), options.ready_fd)
        return 0
    except HpcpoolsError as error:
        LineLog.of(config, "supervisor").note(str(error))
        return error.exit_code
    except Exception:
        for line in traceback.format_exc().splitlines():
            LineLog.of(config, "supervisor").note(line)
        raise


def foreground(
    config: Config,
    names: Sequence[str],
    *,
    take_over: bool = False,
    note: place.Note = lambda _text: None,
) -> None:
    """Be the supervisor in this process, with the services ``names`` up, until SIGTERM, Ctrl-C or `down`.

    For systemd, a Slurm job, a container. ``take_over``, ``note``: as :func:`place.admit`.
    Raises RefusedError if a supervisor runs here already, or the pool lives on another host.
    """
    os.umask(0o077)
    place.admit(config, take_over=take_over, note=note)
    os.chdir(runtime.secure_directory(config.runtime_dir))
    first = channel.Request("up", tuple(names))
    if not supervise(config, table.services(config), None, first):
        raise RefusedError(
            f"the services of {config.runtime_dir} run already", hint="`hpcpools down` stops them first"
        )


def supervise(
    config: Config, services: Sequence[Service], ready_fd: int | None, first: channel.Request | None = None
) -> bool:
    """Be the supervisor of ``config.runtime_dir`` until it is told to end; False if there is one already.

    ``first``: what to start with.
    """
    directory = runtime.secure_directory(config.runtime_dir)
    runtime.secure_directory(directory / "logs")
    address = runtime.socket_path(directory, channel.SOCKET_NAME)
    held = lock.acquire(directory / lock.NAME)
    if held is None:
        LineLog.of(config, "supervisor").note("another supervisor runs here already")
        return False
    try:
        number = place.claim(config)
        beacon = None if number is None else Beacon(config.root, number)
        server = channel.listen(address)
        _tell(ready_fd)
        supervisor = Supervisor(config, services, base_environment(configuration.environment()))
        supervisor.serve(server, first, beacon.tend if beacon else lambda: None)
        address.unlink(missing_ok=True)
        if beacon is not None:
            beacon.leave()
    finally:
        lock.release(held)
    return True


def _tell(ready_fd: int | None) -> None:
    if ready_fd is not None:
        os.write(ready_fd, channel.READY)
        os.close(ready_fd)


if __name__ == "__main__":
    sys.exit(main())
