"""Tasks that the tests run in a real pool: each tells what it does in a file that it only appends to."""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hpcpools import task


def tell(log: str, *words: object) -> None:
    """Append one line in one write."""
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(fd, (" ".join(map(str, words)) + "\n").encode())
    os.close(fd)


@task
def say(log: str, word: str = "hello") -> str:
    """Say a word."""
    tell(log, "say", word)
    return word


@task(queue="evaluation")
def say_later(log: str, word: str) -> None:
    """Say a word, on a queue of lower priority."""
    tell(log, "say", word)


@task
def work(log: str, number: int, seconds: float) -> int:
    """Start, hold a lock that tells if a second copy lives, end."""
    lock = os.open(f"{log}.{number}", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        tell(log, "overlap", number, os.getpid())
    tell(log, "start", number, os.getpid())
    time.sleep(seconds)
    tell(log, "end", number, os.getpid())
    return number


@task(timeout=1)
def hang(log: str, how: str) -> None:
    """Run for ever, deaf to the alarm in one of three ways."""
    tell(log, "hang", os.getpid())
    if how == "block":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    child = subprocess.Popen(["sleep", "600"])
    tell(log, "child", child.pid)
    while True:
        try:
            time.sleep(600)
        except Exception:
            if how == "polite":
                raise


@task
def die(log: str, how: str) -> Any:
    """End without returning."""
    tell(log, "die", how, os.getpid())
    if how == "exit0":
        os._exit(0)
    elif how == "exit3":
        os._exit(3)
    elif how == "segfault":
        ctypes.string_at(0)
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "sysexit":
        sys.exit(0)
    elif how == "raise":
        raise ValueError("boom \x1b[31m")
    elif how == "set":
        return {1, 2}
    elif how == "large":
        return "x" * (2 * 1024 * 1024)
    return None


@task(retries=1)
def second_time(log: str) -> str:
    """Fail once, then succeed."""
    mark = Path(f"{log}.second")
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGSEGV)
    return "ok"


@task
def wait_for_file(log: str, path: str) -> str:
    """Run until a file is there."""
    tell(log, "wait", os.getpid())
    while not Path(path).exists():
        time.sleep(0.01)
    return "seen"


@task
def dice(log: str) -> float:
    """A random number."""
    return random.random()


@task
def worker_killer(log: str) -> None:
    """Kill the worker that runs this, as an OOM killer might."""
    tell(log, "murder", os.getppid())
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)


@task
def queue_argument(log: str, queue: str, arguments: int) -> str:
    """Has parameters with the names of options of enqueue()."""
    return f"{queue}{arguments}"


def undeclared(log: str) -> None:
    """No task."""
    tell(log, "undeclared ran")
