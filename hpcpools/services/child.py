"""One child process: started so that it cannot outlive us, its output logged, its group ended with it.

Owns spawn, signals and reaping. Refuses to signal a pid that is not pinned by a child not yet reaped.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import selectors
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpcpools.errors import UnavailableError
from hpcpools.services.logs import LineLog

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)  # loaded before any fork


class Child:
    """A running process and the pipe it writes to.

    Must be created by the supervisor's only thread: the kernel's parent-death signal follows the thread
    that forked, and a fork hook is safe only without other threads.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        log: LineLog,
        lock: Path | None,
        selector: selectors.BaseSelector,
    ) -> None:
        """Start ``argv``; ``selector`` calls :meth:`pump` when it has written something.

        Raises OSError, or UnavailableError while an earlier child holds ``lock``.
        """
        parent = os.getpid()

        def die_with_parent() -> None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:  # it died before the call above
                os._exit(1)

        self.log = log
        held = _hold(lock) if lock else None
        try:
            self.process = subprocess.Popen(
                argv,
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                start_new_session=True,
                pass_fds=() if held is None else (held,),
                preexec_fn=die_with_parent,  # noqa: PLW1509  (single-threaded, see the class)
            )
        finally:
            if held is not None:
                os.close(held)  # the child's copy keeps the lock
        assert self.process.stdout is not None  # noqa: S101  (PIPE above)
        self.output = self.process.stdout.fileno()
        os.set_blocking(self.output, False)
        self._selector = selector
        selector.register(self.output, selectors.EVENT_READ, self.pump)

    @property
    def pid(self) -> int:
        """The process id, valid until :meth:`reap` returned a code."""
        return self.process.pid

    def pump(self) -> bool:
        """Move what the child wrote into its log; False if there is nothing more for now."""
        try:
            data = os.read(self.output, 64 * 1024)
        except BlockingIOError:
            return False
        if data:
            self.log.feed(data)
        else:
            self._ignore_output()
        return bool(data)

    def _ignore_output(self) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(self.output)

    def terminate(self) -> None:
        """Ask the process to end; it ends its own children."""
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End the process and everything in its group, now."""
        os.killpg(self.pid, signal.SIGKILL)

    def ended(self) -> bool:
        """Whether the process has ended (it stays unreaped, so its pid is still its own)."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def reap(self) -> int:
        """The return code of an ended process; what it left in its group is killed first."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            self.kill()
        for _ in range(1024):  # bounded: something outside the group may still write
            if not self.pump():
                break
        self.log.finish()
        self._ignore_output()
        code = self.process.wait()
        assert self.process.stdout is not None  # noqa: S101
        self.process.stdout.close()
        return code


def _hold(lock: Path) -> int:
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise UnavailableError(f"{lock} is still held by the one before", hint="it is dying; wait") from None
    return fd
