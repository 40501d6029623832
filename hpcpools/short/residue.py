"""What a task left behind in the process that ran it: put in order, or else the process runs no second task.

Owns the cheap checks between two tasks. What it cannot see, and the next task of the same child may:
variables of modules, random states, open files, threads of native libraries.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from hpcpools import config
from hpcpools.short import process

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGALRM, signal.SIGCHLD)


class Residue:
    """The state of this process as it is now, to compare with."""

    def __init__(self) -> None:
        self._threads = threading.active_count()
        self._cwd = _cwd()
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._handlers = [signal.getsignal(number) for number in _SIGNALS]
        self._blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._streams = sys.stdout, sys.stderr
        self._environment = config.environment_as_it_is().copy()

    def found(self) -> str:
        """What a task left that only a new process is rid of, in words; empty if nothing.

        Processes that it left are dead afterwards; working directory, umask, environment and streams are as
        before.
        """
        os.umask(self._umask)
        sys.stdout, sys.stderr = self._streams
        if config.environment_as_it_is() != self._environment:
            config.restore_environment(self._environment)
        if process.has_children():
            return "processes" if process.end_children() else "processes that do not end"
        if threading.active_count() != self._threads:
            return "threads"
        if [signal.getsignal(number) for number in _SIGNALS] != self._handlers:
            return "a signal handler"
        if signal.pthread_sigmask(signal.SIG_BLOCK, ()) != self._blocked:
            return "blocked signals"
        return "" if _cwd() == self._cwd or _enter(self._cwd) else "another working directory"


def _cwd() -> str:
    try:
        return os.getcwd()  # noqa: PTH109
    except OSError:  # it was removed
        return ""


def _enter(folder: str) -> bool:
    try:
        os.chdir(folder)
    except OSError:
        return False
    return True


def flush() -> None:
    """Show what a task printed."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # a full disk, or a task that closed or replaced it
            continue
