"""Running Slurm's commands: one place, with a time limit, a clean environment and a count of the load.

Owns the child process and its end. Refuses shells, waiting without a limit, and any environment but
the one it was given.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from hpcpools.errors import SlurmRefusedError, SlurmUnavailableError
from hpcpools.slurm import failure, ledger
from hpcpools.slurm.environment import client_environment

_NEEDED = ("sbatch", "srun", "squeue")


class Calls(Struct, frozen=True):
    """The load one command caused: calls, how many failed, seconds in all, the longest and the last."""

    count: int = 0
    failed: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    last: float = 0.0

    def plus(self, seconds: float, failed: bool) -> Calls:
        """The load after one more call."""
        return Calls(
            self.count + 1, self.failed + failed, self.seconds + seconds, max(self.longest, seconds), seconds
        )


class Finished(Struct, frozen=True):
    """How a command ended. ``code`` is None if we had to kill it, negative if a signal did."""

    code: int | None
    stdout: str
    stderr: str


class Runner:
    """Runs Slurm's commands with ``environment`` as base; ``timeout`` (seconds) is each call's default.

    ``calls`` maps a command's name to its load so far, ``answers`` to its last answer, for those who are
    content with one that is a little old; the calls of all processes are in ``record`` (see ``ledger``). One
    Runner may be used by several threads.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        timeout: float = 30.0,
        clock: Callable[[], float] = time.time,
        record: Path | None = None,
    ) -> None:
        self.environment = client_environment(environment)
        self._record = record
        self.timeout = timeout
        self.clock = clock
        self.calls: dict[str, Calls] = {}
        self.answers: dict[str, Any] = {}
        self._lock = threading.Lock()

    def has(self, command: str) -> bool:
        """True if ``command`` is on PATH."""
        return shutil.which(command, path=self.environment.get("PATH", os.defpath)) is not None

    def available(self) -> bool:
        """True if sbatch, srun and squeue are on PATH and find a configuration. No request to slurmctld."""
        if not all(map(self.has, _NEEDED)):
            return False
        try:  # even --version reads the configuration, and fails without one
            return self.finish(["sbatch", "--version"], timeout=min(5.0, self.timeout)).code == 0
        except SlurmUnavailableError:
            return False

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
    ) -> str:
        """What ``argv`` printed.

        ``env`` replaces the runner's environment whole. Raises SlurmRefusedError with Slurm's words if it
        said no; SlurmUnavailableError if it is missing, gave no answer in ``timeout`` seconds, or failed
        in any other way.
        """
        done = self.finish(argv, timeout=timeout, env=env, stdin=stdin)
        if done.code == 0:
            return done.stdout
        if done.code is not None and failure.of_query(done.stderr) == "refused":
            raise SlurmRefusedError(f"{argv[0]}: {failure.words(done.stderr)}")
        raise unavailable(argv[0], done)

    def finish(
        self,
        argv: Sequence[str],
        *,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
    ) -> Finished:
        """Run ``argv`` to its end, or kill its process group after ``timeout`` seconds.

        Raises SlurmUnavailableError only if it could not be started at all.
        """
        environment = self.environment if env is None else dict(env)
        _check_configuration(environment)
        started = time.monotonic()
        done = Finished(None, "", "")
        try:
            done = _finish(argv, self.timeout if timeout is None else timeout, environment, stdin)
        finally:
            if "--version" not in argv:  # no question to Slurm
                self._count(argv[0], time.monotonic() - started, failed=done.code != 0)
        return done

    def _count(self, command: str, seconds: float, *, failed: bool) -> None:
        with self._lock:
            self.calls[command] = self.calls.get(command, Calls()).plus(seconds, failed)
        if self._record is not None:
            ledger.note(self._record, command, seconds, failed=failed)


def unavailable(command: str, done: Finished) -> SlurmUnavailableError:
    """The error for a command that gave no usable answer."""
    said = failure.words(done.stderr, done.stdout)
    if done.code is None:
        return SlurmUnavailableError(
            f"{command} did not answer in time and was ended ({said})", hint="try again when Slurm answers"
        )
    return SlurmUnavailableError(f"{command}: {said}", hint="try again when Slurm answers")


def _check_configuration(environment: Mapping[str, str]) -> None:
    """Slurm waits a whole minute for a missing configuration; we need not."""
    path = environment.get("SLURM_CONF")
    if path and not os.access(path, os.R_OK):
        raise SlurmUnavailableError(f"SLURM_CONF={path} cannot be read", hint="correct or unset SLURM_CONF")


def _finish(argv: Sequence[str], timeout: float, env: Mapping[str, str], stdin: str) -> Finished:
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            start_new_session=True,  # its own process group: whatever it started ends with it
            umask=0o077,  # sbatch hands it to the job, whose logs are opened before our entry runs (SEC-6)
        )
    except OSError as error:
        raise SlurmUnavailableError(
            f"{argv[0]} cannot be run ({error.strerror})", hint="is Slurm's client installed and on PATH?"
        ) from error
    try:
        out, err = process.communicate(stdin.encode() if stdin else None, timeout)
    except subprocess.TimeoutExpired:
        out, err = _kill(process)
        return Finished(None, _text(out), _text(err))
    except BaseException:
        _kill(process)
        raise
    return Finished(process.returncode, _text(out), _text(err))


def _kill(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """End the group; never wait long, a process may be stuck in the kernel on a dead file system."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        return process.communicate(timeout=1.0)
    except subprocess.TimeoutExpired as late:
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        return late.stdout or b"", late.stderr or b""


def _text(data: bytes) -> str:
    # Bytes, not text mode: that would turn a carriage return inside a job's name into a line's end.
    return data.decode("utf-8", errors="replace")
