"""Tasks that the tests run in a real pool: each tells what it does in a file that it only appends to."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from rq import get_current_job

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
    tell(log, "murder", os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)


@task
def queue_argument(log: str, queue: str, arguments: int) -> str:
    """Has parameters with the names of options of enqueue()."""
    return f"{queue}{arguments}"


def undeclared(log: str) -> None:
    """No task."""
    tell(log, "undeclared ran")


@task
def leave_meta(log: str, how: str = "return") -> Any:
    """Leave a fact in the job's meta through rq, then return, or fail (always, or the first time)."""
    job = get_current_job()
    assert job is not None
    job.meta["seen"] = [*job.meta.get("seen", ()), job.origin]
    job.save_meta()  # type: ignore[no-untyped-call]
    if how == "fail" or (how == "once" and len(job.meta["seen"]) == 1):
        raise ValueError(how)
    return {"id": job.id, "timeout": job.timeout, "seen": job.meta["seen"]}


@task(retry_intervals=[0, 40, 80])
def flaky(log: str) -> None:
    """Fail; the second try comes at once, the third after 40 s."""
    tell(log, "flaky")
    raise ValueError("flaky")


@task
async def later(log: str) -> str:
    """A coroutine."""
    await asyncio.sleep(0.01)
    return "awaited"


@task
def who(log: str) -> int:
    """The process that runs this."""
    return os.getpid()


@task
def litter(log: str, how: str) -> int:
    """Leave something behind in the process that runs this."""
    if how == "process":
        tell(log, "left", subprocess.Popen(["sleep", "600"]).pid)
    elif how == "daemon":  # in a session of its own, and no child of ours
        if not (pid := os.fork()):
            if not os.fork():
                os.setsid()
                tell(log, "left", os.getpid())
                time.sleep(600)
            os._exit(0)
        os.waitpid(pid, 0)
    elif how == "thread":
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    elif how == "folder":
        os.chdir("/")
    elif how == "umask":
        os.umask(0o777)
    elif how == "handler":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif how == "mask":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    elif how == "environment":
        os.environ["CUDA_VISIBLE_DEVICES"] = "7"
    elif how == "memory":
        _KEPT.append(bytearray(64 << 20))
    return os.getpid()


_KEPT: list[bytearray] = []


@task
def surroundings(log: str) -> list[Any]:
    """Process, working directory, umask and a variable."""
    mask = os.umask(0)
    os.umask(mask)
    return [os.getpid(), str(Path.cwd()), mask, os.environ.get("CUDA_VISIBLE_DEVICES")]


@task
def eat(log: str, mib: int) -> int:
    """Hold memory, half of it in a process of its own, for a while."""
    code = f"x = bytearray({mib // 2} << 20); import time; time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code])
    tell(log, "eat", os.getpid(), child.pid)
    kept = bytearray(mib // 2 << 20)
    time.sleep(60)
    return len(kept)


@task
def forked(log: str) -> int:
    """Return twice: in this process, and in a copy of it."""
    os.fork()
    tell(log, "forked")
    return os.getpid()


@task
def niceness(log: str) -> int:
    """The nice value of the process."""
    return os.nice(0)


@task
def shout(log: str, words: list[str]) -> None:
    """Print, piece by piece; close the stream if told."""
    for word in words:
        if word == "close":
            sys.stdout.close()
            sys.stdout = None
        else:
            print(word, end="")
    print("to stderr", file=sys.stderr)
