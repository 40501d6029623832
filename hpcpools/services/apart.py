"""Services apart: each under a supervisor of its own, as the containers of one pod have them.

Owns what is asked of all of them together. They share what one supervisor's services share: the runtime
directory, the host's name and the process ids. Refuses to start a service that has no supervisor: who made
its container does that. `down` stops a service and leaves its supervisor, so that nobody brings it back.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from hpcpools.config import Config
from hpcpools.errors import RefusedError, UnavailableError, UsageError, WaitTimeoutError
from hpcpools.redisdb import runtime
from hpcpools.services import channel, lock, table
from hpcpools.services.channel import Request
from hpcpools.services.state import ServiceState, State
from hpcpools.textsafe import one_line

LOOK_EVERY = 0.05  # seconds
ANSWER_TIMEOUT = 5.0  # seconds for one answer
KEEPS_DYING = 3  # deaths in a row after which `up` gives up waiting


def lock_path(directory: Path, alone: str) -> Path:
    """The lock of the supervisor of the service ``alone`` only; of that of all for an empty name."""
    return directory / (f"supervisor-{alone}.lock" if alone else lock.NAME)


def address(directory: Path, alone: str) -> Path:
    """Where that supervisor listens. Raises ConfigError if the path is too long for a socket."""
    return runtime.socket_path(directory, f"control-{alone}.sock" if alone else channel.SOCKET_NAME)


def running(config: Config) -> tuple[str, ...]:
    """The services that have a supervisor of their own, in the order in which they start.

    Raises PermissionsError if the runtime directory is open to others, HpcpoolsError if they run elsewhere.
    """
    try:
        runtime.check_directory(config.runtime_dir)
    except FileNotFoundError:
        return ()
    names = (service.name for service in table.services(config))
    return tuple(name for name in names if lock.holder(lock_path(config.runtime_dir, name)))


def ps(config: Config) -> list[ServiceState]:
    """Every service and its state; stopped if it has no supervisor."""
    alone = running(config)
    names = [service.name for service in table.services(config)]
    return [_ask(config, name, "ps") if name in alone else ServiceState(name, "stopped") for name in names]


def up(config: Config, names: Sequence[str], timeout: float) -> list[ServiceState]:
    """Have the named services run, with what they require; none means all that have a supervisor.

    Raises RefusedError for one that has none, UnavailableError, WaitTimeoutError.
    """
    alone = running(config)
    wanted = set(names or alone)
    for service in reversed(table.services(config)):
        wanted |= {*service.requires} if service.name in wanted else set()
    if missing := sorted(wanted - {*alone}):
        raise RefusedError(
            f"the services run apart from one another here, and none of them is {', '.join(missing)}",
            hint="start it where the others were started, such as `docker compose up --detach`",
        )
    deadline = time.monotonic() + timeout
    asked = [name for name in alone if name in wanted]
    for name in asked:
        _ask(config, name, "up")
    for name in asked:
        _until(config, name, "running", deadline)
    return ps(config)


def down(config: Config, names: Sequence[str], timeout: float) -> list[ServiceState]:
    """Stop the named services after those that require them; none means all.

    Raises UsageError for an unknown name, WaitTimeoutError.
    """
    deadline = time.monotonic() + timeout
    for name in reversed(_dependent(config, names)):
        _ask(config, name, "down")
        _until(config, name, "stopped", deadline)
    return ps(config)


def restart(config: Config, names: Sequence[str], timeout: float) -> list[ServiceState]:
    """Stop and start the named services, with those that require them and run; none means all that run.

    Raises as :func:`up`.
    """
    run = {state.name for state in ps(config) if state.pid}
    wanted = [name for name in _dependent(config, names) if name in run or name in names]
    down(config, wanted, timeout)
    return up(config, wanted, timeout) if wanted else ps(config)


def _dependent(config: Config, names: Sequence[str]) -> list[str]:
    """Those of the named ones that have a supervisor, and those that require them; none means all."""
    alone, services = running(config), table.services(config)
    if unknown := sorted({*names} - {service.name for service in services}):
        raise UsageError(
            f"no service {', '.join(one_line(name, 40) for name in unknown)} here",
            hint=f"services of this config: {', '.join(service.name for service in services)}",
        )
    found = set(names or alone)
    for service in services:
        if found & {*service.requires}:
            found.add(service.name)
    return [name for name in alone if name in found]


def _until(config: Config, name: str, wanted: State, deadline: float) -> None:
    while (state := _ask(config, name, "ps")).state != wanted:
        if wanted == "running" and state.failures >= KEEPS_DYING:
            why = state.detail or f"it keeps dying ({state.last_exit})"
            raise UnavailableError(f"service {name} does not run: {why}", hint=f"see `hpcpools logs {name}`")
        if time.monotonic() >= deadline:
            raise WaitTimeoutError(f"service {name} is still {state.state}", hint="see `hpcpools ps`")
        time.sleep(LOOK_EVERY)


def _ask(config: Config, name: str, op: channel.Op) -> ServiceState:
    try:
        reply = channel.call(address(config.runtime_dir, name), Request(op, (name,)), ANSWER_TIMEOUT)
    except OSError as error:
        return ServiceState(name, "starting", detail=f"its supervisor does not answer: {error}")
    return reply.services[0] if reply.services else ServiceState(name, "starting", detail=reply.error)
