"""Processes of the pool: none outlives its parent, each child is a group that ends as one.

Owns the kernel calls (prctl, groups, descendants, signals as events). Refuses to signal a process that may
already have been reaped.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import select
import signal
import sys
import time
from collections.abc import Container, Iterator, Sequence

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PAGE = os.sysconf("SC_PAGE_SIZE")
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


def has_children() -> bool:
    """Whether this process has a child that lives; those that ended are reaped."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def end_children(known: Container[int] = ()) -> bool:
    """Kill and reap every child that is not ``known``; False if some do not go, or cannot be listed.

    What they leave behind becomes our child in its turn (see :func:`adopt_orphans`), hence the repetition.
    """
    for _ in range(100):
        strangers = [pid for pid in _children("self") if pid not in known]
        if not strangers:
            return bool(known) or not has_children()
        for pid in strangers:
            kill_group(pid)
        for pid in strangers:
            if not _ends(pid):
                return False
            reap(pid)
    return False


def _ends(pid: int) -> bool:
    give_up = time.monotonic() + 1.0
    while not has_ended(pid):
        if time.monotonic() > give_up:
            return False
        time.sleep(0.001)
    return True


def resident(pid: int) -> int:
    """Bytes of memory that ``pid`` and all below it hold for themselves (pages of files not counted)."""
    total, found = 0, [pid]
    while found:
        next_one = found.pop()
        with contextlib.suppress(OSError):
            total += own_pages(_read(f"/proc/{next_one}/statm")) * _PAGE
        found += _children(str(next_one))
    return total


def own_pages(statm: bytes) -> int:
    """Resident pages that are no file's, from the text of /proc/PID/statm."""
    words = statm.split()
    return int(words[1]) - int(words[2])


class Memory:
    """How much this process has grown since it began."""

    def __init__(self) -> None:
        self._fd = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._first = self._pages()

    def _pages(self) -> int:
        return own_pages(os.pread(self._fd, 128, 0))

    def growth(self) -> int:
        """Bytes; 0 if that cannot be read (a task closed our file)."""
        try:
            return (self._pages() - self._first) * _PAGE
        except (OSError, IndexError, ValueError):
            return 0


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
        if select.select([self._reader], [], [], max(0.0, seconds))[0]:
            with contextlib.suppress(BlockingIOError):
                os.read(self._reader, 4096)


def forget_signals() -> None:
    """In a forked child: no handler of the parent, nothing blocked, no wakeup."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def reseed() -> None:
    """In a forked child: random numbers of its own, although all are forked from the same memory.

    numpy imports its generators when they are first asked for, and seeds them then; asking here would cost
    each child 4 MiB of its own.
    """
    random.seed()
    if numpy_random := sys.modules.get("numpy.random"):
        numpy_random.seed()


def _children(pid: str) -> Iterator[int]:
    """Direct children of all threads of a process."""
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                yield from map(int, _read(f"/proc/{pid}/task/{thread}/children").split())


def _read(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123  (a path of /proc, read often)
        return file.read()
