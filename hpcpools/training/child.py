"""The training as a child process of the entry: its signals, the other nodes, and what its end means.

Owns the child from start to end. Refuses to outlive the entry: the child is killed with it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path

from hpcpools import atomic
from hpcpools.runs.attempts import Outcome
from hpcpools.runs.states import Cause
from hpcpools.training import nodeenv
from hpcpools.training.context import Run
from hpcpools.training.ending import STOPPED_EXIT, Ending
from hpcpools.training.group import Account, Group, after

GRACE = 20.0  # seconds a child has after it was told to end


def run_child(argv: list[str], run: Run, group: Group, lock: int | None, *, forward_term: bool) -> Ending:
    """Start ``argv`` and wait for its end.

    Warnings are passed on as the stop file, and TERM as itself with ``forward_term``. ``lock`` stays held
    until the child is gone too. If another node of the group ended, the child is told to end.
    """
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda received, _frame: signals.append(received))
    try:
        process = subprocess.Popen(
            argv,
            env=nodeenv.child_environment(),
            preexec_fn=_prepare,  # noqa: PLW1509 - the entry has no threads
            pass_fds=[fd for fd in (lock, group.listening_fd) if fd is not None],
        )
    except OSError as error:
        return Ending("failed", 127, cause=Cause.USER_ERROR, error=f"{argv[0]}: {error.strerror}")
    group.stop_listening()  # the child has the socket
    return _Child(process, run, group, signals, forward_term).wait()


class _Child:
    """A started child until its end; ``signals``: what came for us since the last look."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        run: Run,
        group: Group,
        signals: list[int],
        forward_term: bool,
    ) -> None:
        self._process, self._run, self._group = process, run, group
        self._signals, self._forward_term = signals, forward_term
        self._warned = 0  # USR2 if it ever came, else TERM: what told us to stop
        self._gone: Account | None = None  # the node that ended before us
        self._kill_at: float | None = None

    def wait(self) -> Ending:
        """Look after it until it ends; what its end means."""
        while True:
            try:
                code = self._process.wait(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                pass
            except KeyboardInterrupt:
                self._signals.append(signal.SIGTERM)
            if self._signals:
                self._pass_on()
            if self._gone is None and (gone := self._group.broken()) is not None:
                self._gone = gone
                self._tell(kill=True)
            if self._kill_at is not None and time.monotonic() > self._kill_at:
                self._process.kill()
        return self._ending(code)

    def _pass_on(self) -> None:
        cancelled = self._cancelled()
        atomic.create_bytes(self._run.attempt / "stop", b"")
        usr2 = signal.SIGUSR2 in (self._warned, *self._signals)
        self._warned = signal.SIGUSR2 if usr2 else signal.SIGTERM
        if signal.SIGTERM in self._signals and (self._forward_term or cancelled):
            self._tell(kill=cancelled)
        self._signals.clear()

    def _tell(self, *, kill: bool) -> None:
        """Tell the child to end; with ``kill`` it has so many seconds for it."""
        self._process.send_signal(signal.SIGTERM if self._forward_term else signal.SIGINT)
        if kill:
            self._kill_at = self._kill_at or time.monotonic() + GRACE

    def _ending(self, code: int) -> Ending:
        if -code in (signal.SIGTERM, signal.SIGKILL) and self._gone is None:
            # Slurm signals all processes of a step at once: our own signal may be a moment behind.
            give_up = time.monotonic() + 1.0
            while not (self._signals or self._warned) and time.monotonic() < give_up:
                time.sleep(0.05)
        warned = self._warned or (self._signals[0] if self._signals else 0)
        if self._gone is not None and code != 0 and not warned:
            return after(self._gone)
        if code == STOPPED_EXIT and not warned and (self._run.attempt / "stop").exists():
            return Ending("stopped", STOPPED_EXIT, cause=Cause.STOPPED)  # the sampler's verdict
        return ended(code, str(self._process.args[0]), cancelled=self._cancelled(), warned=warned)  # type: ignore[index]

    def _cancelled(self) -> bool:
        return (self._run.path / "cancel.json").exists()


def ended(code: int, program: str, *, cancelled: bool, warned: int) -> Ending:
    """What a child's return code means; negative is the signal that ended it. Pure."""
    if code == 0:
        return Ending("completed")
    if cancelled:
        return Ending("stopped", STOPPED_EXIT, cause=Cause.CANCELLED)
    if warned:
        return Ending("stopped", STOPPED_EXIT, warned, Cause.STOPPED)
    if code > 0:
        return Ending("failed", code, cause=Cause.USER_ERROR, error=f"exit code {code}")
    error = f"{Path(program).name} was killed by {signal.Signals(-code).name}"
    outcome: Outcome = "killed" if -code in (signal.SIGTERM, signal.SIGKILL) else "failed"
    return Ending(outcome, 128 - code, -code, Cause.KILLED, error)


def _prepare() -> None:
    """Between fork and exec: die with the entry; leave the warning signal to the entry."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, prctl(2)
    if os.getppid() == 1:
        os._exit(1)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
