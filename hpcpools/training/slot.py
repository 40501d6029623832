"""The local training slot: without Slurm, one training at a time on this machine, oldest first.

The run directories are the queue; a new slot after a crash finds the running training by its claim and
waits for it. Exclusion itself is the entry's lock on the machine, which outlives this process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import threading
import time

from hpcpools import eventlog, interpreter
from hpcpools.config import Config, environment
from hpcpools.errors import HpcpoolsError, UnavailableError
from hpcpools.eventlog import event, log
from hpcpools.runs import directory
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.states import Cause, RunState
from hpcpools.runs.view import View, read_view
from hpcpools.training import localruns, plan

TICK = 0.3  # seconds
TERM_GRACE = 10.0  # seconds between TERM and KILL for a cancelled training


def run(config: Config) -> int:
    """Serve until TERM or INT. A training that runs then goes on, and the next slot waits for it."""
    eventlog.to_stderr()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    config.runtime_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(config.runtime_dir / "slot.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UnavailableError("the local slot runs already", hint="`hpcpools ps` shows it") from None
    log.info(event("slot-ready", root=config.root))
    while not stop.is_set():
        views = pending(config)
        running = [view for view in views if localruns.started(view)]
        if running:
            _watch(config, running[0], None, stop)
        elif views and _machine_free(config):
            _start(config, views[0], stop)
        else:
            stop.wait(TICK)
    log.info(event("slot-stop"))
    return 0


def pending(config: Config) -> list[View]:
    """Live local runs, oldest first. What the node has ended is written into the events on the way."""
    found = []
    for token in directory.live_tokens(config.root):
        run_directory = RunDirectory(config.root, token)
        try:
            view = read_view(run_directory)
        except HpcpoolsError:
            continue
        if not localruns.here(view) or view.state is RunState.SUBMITTING:
            continue
        if view.state.is_final:
            _close(run_directory)
        else:
            found.append(view)
    return found


def _machine_free(config: Config) -> bool:
    """False while a training of another project of this user holds the machine."""
    lock_file = plan.slot_lock(config)
    lock_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(fd)


def _start(config: Config, view: View, stop: threading.Event) -> None:
    run_directory = RunDirectory(config.root, view.token)
    if view.cancel_asked:
        run_directory.record(RunState.CANCELLED, time.time(), cause=Cause.CANCELLED.value)
        return
    # A session of its own: the training outlives this slot, and the next one finds it by its claim.
    argv = interpreter.argv("hpcpools.training.local", str(run_directory.path))
    # Services run with it set; a user's script imports what lies beside it, as it does on Slurm.
    env = {name: value for name, value in environment().items() if name != "PYTHONSAFEPATH"}
    with (run_directory.submitit / "launcher.log").open("ab") as output:
        launcher = subprocess.Popen(
            argv, env=env, start_new_session=True, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    log.info(event("training-start", **run_directory.ids(), launcher=launcher.pid))
    _watch(config, view, launcher, stop)


def _watch(
    config: Config, view: View, launcher: subprocess.Popen[bytes] | None, stop: threading.Event
) -> None:
    """Wait for the end of the running training; end it if it was cancelled; name how it ended."""
    run_directory = RunDirectory(config.root, view.token)
    term_at = 0.0
    while not stop.is_set():
        view = read_view(run_directory)
        ended = launcher.poll() is not None if launcher else not localruns.alive(view)
        if ended:
            break
        if view.cancel_asked and localruns.alive(view):
            term_at = _end_cancelled(view, term_at)
        elif view.cancel_asked and launcher is not None and not localruns.started(view):
            launcher.terminate()  # its entry waits for the machine's lock
        stop.wait(TICK)
    else:
        return
    _close(run_directory)


def _end_cancelled(view: View, term_at: float) -> float:
    """TERM once, KILL after the grace; the pid was verified to be ours just before."""
    pid = view.attempt.pid if view.attempt else 0
    with contextlib.suppress(ProcessLookupError):
        if not term_at:
            os.kill(pid, signal.SIGTERM)
        elif time.monotonic() - term_at > TERM_GRACE:
            os.kill(pid, signal.SIGKILL)
    return term_at or time.monotonic()


def _close(run_directory: RunDirectory) -> None:
    view = localruns.close(run_directory)
    log.info(event("training-end", **run_directory.ids(), state=view.state.value, cause=view.cause.value))
