"""The supervisor's loop: children, timers, their output and the control channel, in one thread.

Owns which service may start or stop now (what it requires first, what requires it last). Refuses requests
for services that the table does not have.
"""

from __future__ import annotations

import contextlib
import selectors
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from hpcpools.config import Config
from hpcpools.services import channel
from hpcpools.services.channel import Reply, Request
from hpcpools.services.logs import LineLog
from hpcpools.services.table import Service
from hpcpools.services.unit import Unit
from hpcpools.textsafe import one_line

IDLE_END = 30.0  # seconds without a wanted service after which the supervisor ends
REQUEST_TIMEOUT = 2.0  # seconds for a client to send its line


class Supervisor:
    """Keeps the wanted services of ``services`` alive until told otherwise.

    ``alone``: the one service that it has, if others have supervisors of their own. Then it ends with SIGTERM
    only, and writes into that service's log.
    """

    def __init__(
        self, config: Config, services: Sequence[Service], environment: Mapping[str, str], alone: str = ""
    ) -> None:
        self._stays = bool(alone)
        self._log = LineLog.of(config, alone or "supervisor")
        self._selector = selectors.DefaultSelector()
        self._units = {
            service.name: Unit(
                service,
                LineLog.of(config, service.name),
                env=environment,
                cwd=config.runtime_dir,
                selector=self._selector,
                note=self._log.note,
            )
            for service in services
        }
        self._clients: dict[socket.socket, tuple[bytes, float]] = {}
        self._closing = False
        self._idle_since: float | None = None

    def serve(
        self,
        server: socket.socket,
        first: Request | None = None,
        chore: Callable[[], None] = lambda: None,
    ) -> None:
        """Run until every service is stopped and none is wanted any more.

        ``first`` is what to begin with; ``chore`` is done again and again, also when any child has ended.
        """
        wake, woken = socket.socketpair()
        wake.setblocking(False)
        woken.setblocking(False)
        signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._close())
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only to be woken
        self._watch(wake, lambda: wake.recv(4096))
        self._watch(server, lambda: self._accept(server))
        self._log.note("supervisor started")
        if first is not None:
            self.handle(first)
        self._step(time.monotonic())
        while not self._finished(time.monotonic()):
            for key, _ in self._selector.select(self._timeout(time.monotonic())):
                key.data()
            self._drop_slow_clients(time.monotonic())
            self._step(time.monotonic())
            chore()
        signal.set_wakeup_fd(-1)
        self._log.note("supervisor ended")

    def handle(self, request: Request) -> Reply:
        """Do what a client asks and tell it how things stand."""
        now = time.monotonic()
        unknown = set(request.names) - set(self._units)
        if unknown:
            return Reply(error=f"no service {', '.join(sorted(one_line(n, 40) for n in unknown))} here")
        if self._closing and request.op in ("up", "restart"):
            return Reply(closing=True)
        concerned: list[Unit] = []
        if request.op == "up":
            concerned = self._required(request.names or tuple(self._units))
            for unit in concerned:
                unit.want(now)
        elif request.op == "down":
            concerned = self._dependent(request.names or tuple(self._units))
            for unit in concerned:
                unit.wanted = False
            self._closing = not self._stays and not any(unit.wanted for unit in self._units.values())
        elif request.op == "restart":
            concerned = self._restart(request.names, now)
        self._step(now)
        return Reply(
            services=tuple(unit.report() for unit in self._units.values()),
            concerned=tuple(unit.service.name for unit in concerned),
            closing=self._closing,
        )

    def _restart(self, names: tuple[str, ...], now: float) -> list[Unit]:
        names = names or tuple(name for name, unit in self._units.items() if unit.wanted)
        concerned = [unit for unit in self._dependent(names) if unit.wanted]
        for unit in concerned:
            unit.bounce = unit.child is not None
        concerned += [unit for unit in self._required(names) if unit not in concerned]
        for unit in concerned:
            unit.want(now)
        return concerned

    def _step(self, now: float) -> None:
        """Step every unit until none changes any more: an end or a start can be another's cue."""
        before = None
        while before != (before := [(unit.phase, unit.child) for unit in self._units.values()]):
            for name, unit in self._units.items():
                requires = [self._units[other] for other in unit.service.requires]
                dependent = [other for other in self._units.values() if name in other.service.requires]
                unit.step(
                    now,
                    may_start=all(other.phase == "running" and not other.bounce for other in requires),
                    may_stop=all(other.child is None for other in dependent),
                )

    def _required(self, names: Sequence[str]) -> list[Unit]:
        """The named units and all that they require."""
        found = set(names)
        for name in names:
            found |= {unit.service.name for unit in self._required(self._units[name].service.requires)}
        return [unit for name, unit in self._units.items() if name in found]

    def _dependent(self, names: Sequence[str]) -> list[Unit]:
        """The named units and all that require them."""
        found = set(names)
        for unit in self._units.values():  # the table is in starting order
            if found & set(unit.service.requires):
                found.add(unit.service.name)
        return [unit for name, unit in self._units.items() if name in found]

    def _close(self) -> None:
        self._closing = True
        for unit in self._units.values():
            unit.wanted = False

    def _finished(self, now: float) -> bool:
        if any(unit.wanted or unit.child for unit in self._units.values()):
            self._idle_since = None
            return False
        self._idle_since = self._idle_since or now
        idle = not self._stays and now - self._idle_since >= IDLE_END
        return (self._closing and not self._clients) or idle

    def _timeout(self, now: float) -> float:
        due = [unit.next_look(now) for unit in self._units.values()]
        due += [max(0.0, deadline - now) for _, deadline in self._clients.values()]
        return min([*due, 1.0 if self._idle_since is not None else 60.0])

    def _watch(self, file: Any, ready: Callable[[], object]) -> None:
        self._selector.register(file, selectors.EVENT_READ, ready)

    def _accept(self, server: socket.socket) -> None:
        try:
            client, _ = server.accept()
        except OSError:
            return
        if not channel.is_ours(client):
            client.close()
            return
        client.setblocking(False)
        self._clients[client] = (b"", time.monotonic() + REQUEST_TIMEOUT)
        self._watch(client, partial(self._read, client))

    def _read(self, client: socket.socket) -> None:
        data, deadline = self._clients[client]
        try:
            chunk = client.recv(channel.MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        data += chunk
        self._clients[client] = (data, deadline)
        if data.endswith(b"\n"):
            request = channel.parse(data)
            reply = self.handle(request) if request else Reply(error="not a request")
            with contextlib.suppress(OSError):
                client.send(channel.encode(reply))  # far smaller than a socket's buffer
        elif chunk and len(data) <= channel.MAX_MESSAGE:
            return
        self._forget(client)

    def _drop_slow_clients(self, now: float) -> None:
        for client in [c for c, (_, deadline) in self._clients.items() if now >= deadline]:
            self._forget(client)

    def _forget(self, client: socket.socket) -> None:
        del self._clients[client]
        self._selector.unregister(client)
        client.close()
