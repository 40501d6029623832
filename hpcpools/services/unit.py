"""One supervised service over time: wanted or not, its child, its deaths, when it is tried again.

Owns the state machine of a service. Refuses to wait: every step looks once, acts once and returns.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from hpcpools.errors import HpcpoolsError
from hpcpools.services.child import Child
from hpcpools.services.logs import LineLog
from hpcpools.services.state import HEALTHY_AFTER, ServiceState, State, backoff, exit_text
from hpcpools.services.table import Service
from hpcpools.textsafe import one_line

PROBE_EVERY = 0.05  # seconds between two looks at a starting child
IDLE = 60.0  # seconds until the next look where nothing is due


class Unit:
    """A service as the supervisor carries it; ``now`` is always the supervisor's monotonic clock."""

    def __init__(
        self,
        service: Service,
        log: LineLog,
        *,
        env: Mapping[str, str],
        cwd: Path,
        selector: selectors.BaseSelector,
        note: Callable[[str], None],
    ) -> None:
        self.service = service
        self.child: Child | None = None
        self.wanted = False
        self.bounce = False  # stop once, then start again
        self.phase: State = "stopped"
        self._log = log
        self._env = {**env, **service.env}
        self._cwd = cwd
        self._selector = selector
        self._note = note
        self._since = time.time()
        self._entered = 0.0
        self._deadline = 0.0  # backoff: when to try again; stopping: when to kill
        self._ready_at: float | None = None
        self._killed = False
        self._started_before = False
        self._restarts = 0
        self._failures = 0
        self._last_exit = ""
        self._detail = ""

    def want(self, now: float) -> None:
        """Have it run; an earlier backoff is forgotten."""
        self.wanted = True
        self._failures = 0
        if self.phase == "backoff":
            self._deadline = now

    def step(self, now: float, *, may_start: bool, may_stop: bool) -> None:
        """Look at the child and take the one action that is due."""
        if self.child is not None and self.child.ended():
            self._ended(self.child, now)
        if self.child is None:
            self._without_child(now, may_start)
        elif self.phase == "stopping":
            if now >= self._deadline and not self._killed:
                self._note(f"{self.service.name}: no end after {self.service.grace:g} s; killed")
                self._killed = True
                self.child.kill()
        elif not self.wanted or self.bounce:
            if may_stop:
                self._enter("stopping", now)
                self._deadline, self._killed = now + self.service.grace, False
                self.child.terminate()
        elif self.phase == "starting":
            self._probe(self.child, now)
        elif now - self._entered >= HEALTHY_AFTER:
            self._failures = 0

    def next_look(self, now: float) -> float:
        """Seconds until :meth:`step` has something to do, as far as time alone decides."""
        if self.phase == "starting" and self.child is not None:
            return PROBE_EVERY
        if self.phase == "backoff" or (self.phase == "stopping" and not self._killed):
            return max(0.0, self._deadline - now)
        return IDLE

    def report(self) -> ServiceState:
        """What a client is told."""
        leaving = self.phase == "running" and (not self.wanted or self.bounce)
        return ServiceState(
            name=self.service.name,
            state="stopping" if leaving else self.phase,
            pid=self.child.pid if self.child else None,
            since=self._since,
            restarts=self._restarts,
            failures=self._failures,
            last_exit=self._last_exit,
            detail=self._detail,
        )

    def _without_child(self, now: float, may_start: bool) -> None:
        self.bounce = False
        if not self.wanted:
            if self.phase != "stopped":
                self._enter("stopped", now)
        elif self.phase == "backoff" and now < self._deadline:
            pass
        elif may_start:
            self._start(now)
        elif self.phase != "starting":
            self._enter("starting", now, f"waits for {' and '.join(self.service.requires)}")

    def _start(self, now: float) -> None:
        try:
            argv = self.service.command()
            self.child = Child(
                argv,
                env=self._env,
                cwd=self._cwd,
                log=self._log,
                lock=self.service.lock,
                selector=self._selector,
            )
        except (HpcpoolsError, OSError) as error:
            self._failed(now, one_line(str(error), 500))
            return
        self._restarts += self._started_before
        self._started_before, self._ready_at = True, None
        self._enter("starting", now, self.service.warning())
        self._note(f"{self.service.name}: started {argv[0]} as pid {self.child.pid} {self._detail}".rstrip())

    def _probe(self, child: Child, now: float) -> None:
        if self._ready_at is None and self.service.ready(child.pid):
            self._ready_at = now
        if self._ready_at is not None and now - self._ready_at >= self.service.settle:
            self._enter("running", now, self._detail)

    def _ended(self, child: Child, now: float) -> None:
        pid, self.child = child.pid, None
        self._last_exit = exit_text(child.reap())
        self._note(f"{self.service.name}: pid {pid} ended: {self._last_exit}")
        if self.phase == "stopping":
            self._started_before = False
            self._enter("stopped", now)
        else:
            self._failed(now, "")

    def _failed(self, now: float, detail: str) -> None:
        self._failures += 1
        wait = backoff(self._failures)
        self._deadline = now + wait
        self._enter("backoff", now, detail)
        self._note(f"{self.service.name}: tried again in {wait:g} s {detail}".rstrip())

    def _enter(self, phase: State, now: float, detail: str = "") -> None:
        self.phase, self._entered, self._since, self._detail = phase, now, time.time(), detail
