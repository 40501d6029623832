"""Starting, stopping and asking for the services, from a command line or a program.

Owns the client side of the supervisor. Refuses to signal a supervisor it cannot prove to be ours, and to
guess: a service that keeps dying is an error with the end of its log.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from hpcpools.config import Config, environment
from hpcpools.errors import HpcpoolsError, UnavailableError, UsageError, WaitTimeoutError
from hpcpools.redisdb import runtime
from hpcpools.services import apart, channel, lock, logs, place, table
from hpcpools.services.apart import ANSWER_TIMEOUT, KEEPS_DYING, LOOK_EVERY
from hpcpools.services.channel import READY, Reply, Request
from hpcpools.services.state import ServiceState
from hpcpools.services.table import Engine, base_environment
from hpcpools.textsafe import one_line

START_TIMEOUT = 60.0  # seconds for all services to be ready: a large append-only file takes a while to load
STOP_TIMEOUT = 60.0  # seconds for all services to end
DAEMON_TIMEOUT = 20.0  # seconds for the supervisor itself to answer: an import from a busy shared disk
UNRESPONSIVE_AFTER = 10.0  # seconds without an answer after which a supervisor counts as hung


def up(
    config: Config,
    names: Sequence[str] = (),
    *,
    engine: Engine = "slurm",
    timeout: float = START_TIMEOUT,
    daemon: Sequence[str] = (),
    take_over: bool = False,
    note: place.Note = lambda _text: None,
) -> list[ServiceState]:
    """Have the services run, and return when each is ready; those that already run are left alone.

    ``names``: which ones (with what they require); none means the default set for ``engine``.
    ``daemon``: the argv of the supervisor, for a table of one's own.
    ``take_over``: have a pool of this root on another host stop first; ``note`` hears of it.
    Raises UnavailableError with the end of the log if one keeps dying, PermissionsError if the runtime
    directory is open to others, UsageError for an unknown name, RefusedError if they run on another host.
    """
    place.admit(config, take_over=take_over, note=note)
    if apart.running(config):
        return apart.up(config, names, timeout)
    wanted = tuple(names) or table.default_names(config, engine)
    return _have_run(config, Request("up", wanted), timeout, daemon)


def restart(
    config: Config, names: Sequence[str] = (), *, timeout: float = START_TIMEOUT, daemon: Sequence[str] = ()
) -> list[ServiceState]:
    """Stop and start the services again (with those that require them); none means all that are wanted.

    Raises as :func:`up`; UnavailableError if nothing runs and no names are given.
    """
    if not names and not running(config):
        raise UnavailableError("no services run here", hint="start them with `hpcpools up`")
    if apart.running(config):
        return apart.restart(config, names, timeout)
    return _have_run(config, Request("restart", tuple(names)), timeout + STOP_TIMEOUT, daemon)


def down(config: Config, names: Sequence[str] = (), *, timeout: float = STOP_TIMEOUT) -> list[ServiceState]:
    """Stop the services (with those that require them) and wait until they have ended; none means all.

    The supervisor ends with its last service. One that does not answer is killed, once it is proven ours;
    its services die with it. Raises WaitTimeoutError.
    """
    if apart.running(config):
        return apart.down(config, names, timeout)
    deadline = time.monotonic() + timeout
    holder = _holder(config)
    reply = _ask(config, Request("down", tuple(names)), patience=UNRESPONSIVE_AFTER)
    if reply is None:
        _kill_unresponsive(config, deadline)
        return ps(config)
    while True:
        states = ps(config)
        busy = [s.name for s in states if s.pid and s.name in reply.concerned]
        ending = reply.closing and holder is not None and holder.verified
        if not busy and not ending:
            return states
        if time.monotonic() >= deadline:
            raise WaitTimeoutError(
                f"{', '.join(busy) or 'the supervisor'} did not end", hint="see `hpcpools ps`"
            )
        time.sleep(LOOK_EVERY)


def ps(config: Config) -> list[ServiceState]:
    """Every service and its state; all stopped where no supervisor runs.

    Raises UnavailableError if one runs but does not answer, HpcpoolsError if it runs on another host.
    """
    reply = _ask(config, Request("ps"), patience=UNRESPONSIVE_AFTER)
    if reply is not None:
        return list(reply.services)
    if _holder(config) is not None:
        raise UnavailableError("the supervisor does not answer", hint="`hpcpools down` ends it")
    return apart.ps(config)  # all stopped where none runs


def named(states: Sequence[ServiceState], names: Sequence[str]) -> list[ServiceState]:
    """Those of ``states`` with these names; all if there are none. Raises UsageError for an unknown one."""
    known = [state.name for state in states]
    if unknown := sorted(set(names) - {*known}):
        raise UsageError(
            f"no service {', '.join(one_line(name, 40) for name in unknown)} here",
            hint=f"services of this config: {', '.join(known)}",
        )
    return [state for state in states if not names or state.name in names]


def check(states: Sequence[ServiceState]) -> None:
    """Raise UnavailableError unless services run, and all that are not stopped do."""
    wrong = [f"{one.name} is {one.state}" for one in states if one.state not in ("running", "stopped")]
    if wrong or all(one.state == "stopped" for one in states):
        what = ", ".join(wrong) or "no service runs"
        raise UnavailableError(what, hint="`hpcpools logs SERVICE` shows why")


def running(config: Config) -> bool:
    """Whether a supervisor runs here. Raises HpcpoolsError if it runs on another host."""
    return _holder(config) is not None or bool(apart.running(config))


def _have_run(config: Config, request: Request, timeout: float, daemon: Sequence[str]) -> list[ServiceState]:
    deadline = time.monotonic() + timeout
    runtime.secure_directory(config.runtime_dir)
    runtime.secure_directory(config.runtime_dir / "logs")
    reply = _ask(config, request)
    while reply is None or reply.closing:
        if time.monotonic() >= deadline:
            raise UnavailableError("the supervisor does not answer", hint=_look_at(config, "supervisor"))
        if _holder(config) is None:
            _launch(config, daemon)
        time.sleep(LOOK_EVERY)
        reply = _ask(config, request)
    wanted = set(reply.concerned)
    while True:
        states = list(reply.services)
        waiting = [s for s in states if s.name in wanted and s.state != "running"]
        if not waiting:
            return states
        for state in waiting:
            if state.failures >= KEEPS_DYING:
                raise _keeps_dying(config, state)
        if time.monotonic() >= deadline:
            raise _not_ready(config, waiting[0], timeout)
        time.sleep(LOOK_EVERY)
        reply = _ask(config, Request("ps")) or reply


def _ask(config: Config, request: Request, *, patience: float = 0.0) -> Reply | None:
    """The supervisor's answer; None if there is none, or it has not answered after ``patience`` seconds."""
    address = runtime.socket_path(config.runtime_dir, channel.SOCKET_NAME)
    deadline = time.monotonic() + patience
    while _holder(config) is not None:
        try:
            reply = channel.call(address, request, ANSWER_TIMEOUT)
        except OSError:
            if time.monotonic() >= deadline:
                return None
            time.sleep(LOOK_EVERY)
            continue
        if reply.error:
            known = ", ".join(service.name for service in table.services(config))
            raise UsageError(reply.error, hint=f"services of this config: {known}")
        return reply
    return None


def _holder(config: Config) -> lock.Holder | None:
    try:
        runtime.check_directory(config.runtime_dir)
    except FileNotFoundError:
        return None
    return lock.holder(config.runtime_dir / lock.NAME)


def _launch(config: Config, daemon: Sequence[str]) -> None:
    """Start a supervisor and wait until it listens, or says in its log why not."""
    argv = [*(daemon or (sys.executable, "-m", "hpcpools.services.daemon")), "--config", config.file]
    read_end, write_end = os.pipe()
    log = os.open(
        logs.log_path(config, "supervisor"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600
    )
    with os.fdopen(read_end, "rb") as told:
        try:
            starter = subprocess.Popen(
                [*argv, "--ready-fd", str(write_end)],
                env=base_environment(environment()),
                cwd=config.runtime_dir,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(write_end,),
            )
        finally:
            os.close(write_end)
            os.close(log)
        readable, _, _ = select.select([told], [], [], DAEMON_TIMEOUT)
        said = os.read(told.fileno(), len(READY)) if readable else b""
    if not readable:
        starter.kill()  # it hangs before its fork; after it, this one is gone and the kill does nothing
    starter.wait()
    if said != READY and _holder(config) is None:
        raise UnavailableError("the supervisor did not start", hint=_look_at(config, "supervisor"))


def _kill_unresponsive(config: Config, deadline: float) -> None:
    """End a supervisor that holds its lock but does not answer; nothing to do if there is none."""
    holder = _holder(config)
    if holder is None:
        return
    if not holder.verified:
        raise HpcpoolsError(
            f"process {holder.pid} holds {config.runtime_dir / lock.NAME} and cannot be verified",
            hint="run the command on the machine, or in the container, where it was started",
        )
    with contextlib.suppress(ProcessLookupError):
        os.kill(holder.pid, signal.SIGKILL)
    while _holder(config) is not None:
        if time.monotonic() >= deadline:
            raise WaitTimeoutError(
                f"supervisor {holder.pid} does not end", hint="it may wait for a dead disk"
            )
        time.sleep(LOOK_EVERY)


def _keeps_dying(config: Config, state: ServiceState) -> UnavailableError:
    why = state.detail or f"it keeps dying ({state.last_exit})"
    return UnavailableError(f"service {state.name} does not run: {why}", hint=_look_at(config, state.name))


def _not_ready(config: Config, state: ServiceState, timeout: float) -> UnavailableError:
    why = state.detail or state.last_exit or "no sign of life"
    return UnavailableError(
        f"service {state.name} is still {state.state} after {timeout:g} s: {why}",
        hint=_look_at(config, state.name),
    )


def _look_at(config: Config, name: str) -> str:
    path = logs.log_path(config, name)
    lines = "\n".join(f"  {line}" for line in logs.tail(path))
    return f"see {path}" + (f"; it ends with:\n{lines}" if lines else "")
