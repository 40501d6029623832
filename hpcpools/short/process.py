"""Processes of the pool: none outlives its parent, each task is a group that ends as one.

Owns the kernel calls (prctl, groups, signals as events) and the memory that supervisor, worker and task
share. Refuses to signal a process that may already have been reaped.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import select
import signal
import struct
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)  # loaded before any fork


def die_with_parent(parent: int) -> None:
    """Called right after fork: the kernel kills this process as soon as ``parent`` has ended."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the call above
        os._exit(1)


def adopt_orphans() -> None:
    """Descendants whose parent dies become our children, so that we can see them end."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def has_ended(pid: int) -> bool:
    """Whether child ``pid`` has ended; it stays unreaped, so its pid and group are still its own."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def kill_group(pid: int) -> None:
    """SIGKILL child ``pid``, not yet reaped, and everything in the group it leads."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def reap(pid: int) -> int:
    """Wait for child ``pid``; its exit code, negative for a signal (-9 for SIGKILL)."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return 0


def reap_strangers(known: set[int]) -> None:
    """Reap adopted children that ended and are not in ``known``."""
    with contextlib.suppress(ChildProcessError):
        while info := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if info.si_pid in known:
                return  # its owner reaps it; the others are met after that
            os.waitpid(info.si_pid, 0)


class Board:
    """Shared memory with one line per worker: the pid of its task's process, and whether that is saving."""

    _LINE = struct.Struct("qq")

    def __init__(self, lines: int) -> None:
        self._memory = mmap.mmap(-1, lines * self._LINE.size)

    def write(self, line: int, pid: int, saving: bool = False) -> None:
        """Set a line; pid 0 means no task."""
        self._LINE.pack_into(self._memory, line * self._LINE.size, pid, saving)

    def pid(self, line: int) -> int:
        """The task's process, not yet reaped; 0 if there is none."""
        return int(self._LINE.unpack_from(self._memory, line * self._LINE.size)[0])

    def saving(self, line: int) -> bool:
        """Whether the task's own code is over and only its result is being written."""
        return bool(self._LINE.unpack_from(self._memory, line * self._LINE.size)[1])


class Signals:
    """Signals as events of a loop: handlers only count, :meth:`wait` returns early."""

    def __init__(self, counted: Sequence[signal.Signals]) -> None:
        self._reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.counts = dict.fromkeys(counted, 0)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (*counted, signal.SIGCHLD):
            signal.signal(number, self._count)

    def _count(self, number: int, _frame: object) -> None:
        if number in self.counts:
            self.counts[signal.Signals(number)] += 1

    def wait(self, seconds: float) -> None:
        """Sleep until a signal came (also one since the last call), at most ``seconds``."""
        if select.select([self._reader], [], [], seconds)[0]:
            with contextlib.suppress(BlockingIOError):
                os.read(self._reader, 4096)


def forget_signals() -> None:
    """In a forked child: no handler of the parent, nothing blocked, no wakeup."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
