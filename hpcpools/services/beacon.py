"""A small process beside the supervisor: it gives the signs of life, and heeds the wish of another host.

Owns that process. It is one of its own because a shared file system may hang: then it hangs, and the
supervisor does not. Refuses to stop anything itself: it tells the supervisor, which stops in order.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from hpcpools.services import place
from hpcpools.short.process import die_with_parent

LOOK = 2.0  # seconds between two looks whether to leave
REAP = 1.0  # seconds for a killed one to go; one that waits for a dead disk is left behind


class Beacon:
    """The beacon of claim ``number`` of ``root``; made and used by the supervisor's only thread."""

    def __init__(self, root: Path, number: int) -> None:
        self._root = root
        self._number = number
        self._pid = self._fork()

    def tend(self) -> None:
        """Start another one if it has ended."""
        if self._reaped():
            self._pid = self._fork()

    def leave(self) -> None:
        """End it, and say that the supervisor has stopped everything."""
        os.kill(self._pid, signal.SIGKILL)
        give_up = time.monotonic() + REAP
        while not self._reaped() and time.monotonic() < give_up:
            time.sleep(0.01)
        place.leave(self._root, self._number)

    def _reaped(self) -> bool:
        return bool(os.waitpid(self._pid, os.WNOHANG)[0])

    def _fork(self) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                _become_harmless(parent)
                _serve(self._root, self._number, parent)
            finally:
                time.sleep(LOOK)  # whatever it was, it must not fork without end
                os._exit(1)
        return pid


def _become_harmless(parent: int) -> None:
    """Dies with its parent and only with it; keeps none of its files, the lock above all."""
    signal.set_wakeup_fd(-1)
    die_with_parent(parent)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


def _serve(root: Path, number: int, supervisor: int) -> None:
    due, told = 0.0, False
    while True:
        with contextlib.suppress(OSError):  # the disk is away or full: the next time
            if time.monotonic() >= due:
                place.alive(root, number)
                due = time.monotonic() + place.BEAT
            if not told and place.dismissed(root, number):
                os.kill(supervisor, signal.SIGTERM)
                told = True
        time.sleep(LOOK)
