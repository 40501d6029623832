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

from msgspec.structs import replace

from hpcpools import config as configuration
from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError, RefusedError, UsageError
from hpcpools.redisdb import runtime
from hpcpools.services import apart, channel, lock, place, table
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
    alone: str = "",
) -> None:
    """Be the supervisor in this process, with the services ``names`` up, until SIGTERM, Ctrl-C or `down`.

    For systemd, a Slurm job, a container. ``take_over``, ``note``: as :func:`place.admit`. ``alone``: of this
    one service only, beside the supervisors of the others (:mod:`apart`), until SIGTERM.
    Raises RefusedError if a supervisor runs here already, or the pool lives on another host.
    """
    os.umask(0o077)
    place.admit(config, take_over=take_over, note=note)
    os.chdir(runtime.secure_directory(config.runtime_dir))
    first = channel.Request("up", tuple(names))
    services = table.services(config)
    if alone:  # when what it requires starts is up to who starts the others
        services = tuple(replace(one, requires=()) for one in services if one.name == alone)
        if not services:
            raise UsageError(
                f"this configuration has no service {alone}", hint="[exporter], [dashboard], [lane], [redis]"
            )
    if not supervise(config, services, None, first, alone):
        raise RefusedError(
            f"the services of {config.runtime_dir} run already", hint="`hpcpools down` stops them first"
        )


def supervise(
    config: Config,
    services: Sequence[Service],
    ready_fd: int | None,
    first: channel.Request | None = None,
    alone: str = "",
) -> bool:
    """Be the supervisor of ``config.runtime_dir`` until it is told to end; False if there is one already.

    ``first``: what to start with. ``alone``: as :func:`foreground`.
    """
    directory = runtime.secure_directory(config.runtime_dir)
    runtime.secure_directory(directory / "logs")
    address = apart.address(directory, alone)
    held = lock.acquire(apart.lock_path(directory, alone))
    # each takes its own lock before it looks for the others': no two of them miss one another
    if held is None or _others(config, alone):
        if held is not None:
            lock.release(held)
        LineLog.of(config, alone or "supervisor").note("another supervisor runs here already")
        return False
    try:
        # the data are where Redis is: its supervisor speaks for the pool's place
        number = place.claim(config) if alone in ("", "redis") else None
        beacon = None if number is None else Beacon(config.root, number)
        server = channel.listen(address)
        _tell(ready_fd)
        supervisor = Supervisor(config, services, base_environment(configuration.environment()), alone)
        supervisor.serve(server, first, beacon.tend if beacon else lambda: None)
        address.unlink(missing_ok=True)
        if beacon is not None:
            beacon.leave()
    finally:
        lock.release(held)
    return True


def _others(config: Config, alone: str) -> bool:
    """Whether services run here in the other way: apart from one another, or under one supervisor."""
    return bool(lock.holder(config.runtime_dir / lock.NAME) if alone else apart.running(config))


def _tell(ready_fd: int | None) -> None:
    if ready_fd is not None:
        os.write(ready_fd, channel.READY)
        os.close(ready_fd)


if __name__ == "__main__":
    sys.exit(main())
