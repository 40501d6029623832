"""One task of a batch on its node: a process group of its own, a limit, and how it ended.

Runs no Slurm command and opens no Redis. Refuses a callable that its module does not declare, and to leave
anything of the task's group behind.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, cast

from hpcpools.declare import MARK, TaskDeclaration
from hpcpools.errors import RefusedError
from hpcpools.runs.batches import BatchDirectory, Carried
from hpcpools.short import outcome, process

HARD = 2.0  # seconds after its limit until a task that did not end by itself is killed
SHORTEST, LONGEST = 0.005, 0.2  # seconds between two looks at the task
STOPS = 1.0  # seconds between two looks for someone who wants its end
SIGNAL_LAG = 1.0  # Slurm signals all processes of a step at once: ours may arrive a moment later


class OverLimitError(Exception):
    """The task's time is up."""


def run(
    place: BatchDirectory,
    number: int,
    job: Carried,
    modules: Sequence[str],
    leaving: Callable[[], bool],
) -> dict[str, Any]:
    """Run the task to its end; the facts of its end marker.

    ``leaving``: true once the node is to be left; then the task is killed, and interrupted.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    entry, began = os.getpid(), time.monotonic()
    pid = os.fork()
    if pid == 0:
        _be_the_task(entry, place, number, job, modules)
    with contextlib.suppress(PermissionError, ProcessLookupError):
        os.setpgid(pid, pid)
    why = _watch(place, number, job, pid, began, leaving)
    process.kill_group(pid)
    while not process.has_ended(pid):
        time.sleep(SHORTEST)
    code = process.reap(pid)
    return {**_ending(place, number, job, why, code, leaving), "seconds": time.monotonic() - began}


def _watch(
    place: BatchDirectory, number: int, job: Carried, pid: int, began: float, leaving: Callable[[], bool]
) -> str:
    """Wait for the end of the task's process; why it must be killed, or an empty text."""
    nap, next_look = SHORTEST, began
    while not process.has_ended(pid):
        now = time.monotonic()
        if leaving():
            return "interrupted"
        if now > began + job.timeout + HARD:
            return "over"
        if now >= next_look:
            next_look = now + STOPS
            if place.must_stop(number):
                return "stopped"
        time.sleep(nap)
        nap = min(nap * 1.5, LONGEST)
    return ""


def _ending(
    place: BatchDirectory, number: int, job: Carried, why: str, code: int, leaving: Callable[[], bool]
) -> dict[str, Any]:
    said = None
    with contextlib.suppress(OSError, ValueError):
        said = json.loads(place.said(number).read_bytes())
    place.said(number).unlink(missing_ok=True)
    if isinstance(said, dict):
        return said
    if why == "stopped":
        return {"outcome": "stopped", "reason": outcome.STOPPED}
    if why == "over":
        return {"outcome": "failed", "reason": outcome.over(job.timeout)}
    give_up = time.monotonic() + SIGNAL_LAG
    while code == -signal.SIGTERM and not leaving() and time.monotonic() < give_up:
        time.sleep(SHORTEST)
    if leaving():
        return {"outcome": "interrupted", "reason": "its node was taken away while it ran"}
    return {"outcome": "failed", "reason": outcome.cause(code)}


def _be_the_task(
    entry: int, place: BatchDirectory, number: int, job: Carried, modules: Sequence[str]
) -> NoReturn:
    code = 1
    try:
        process.die_with_parent(entry)
        os.setpgid(0, 0)
        process.forget_signals()
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # Slurm warns all processes before the limit
        _redirect(place, number)
        process.reseed()
        said = _call(job, modules)
        # Plain: only the entry on this node reads it, and only if this process lived to write it.
        place.said(number).write_bytes(json.dumps(said, separators=(",", ":")).encode())
        code = 0
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _call(job: Carried, modules: Sequence[str]) -> dict[str, Any]:
    try:
        signal.signal(signal.SIGALRM, _time_is_up)
        signal.setitimer(signal.ITIMER_REAL, job.timeout)
        value = function(job.task, modules)(**job.arguments)
        signal.setitimer(signal.ITIMER_REAL, 0)
        outcome.check_result(value)
    except BaseException as error:
        signal.setitimer(signal.ITIMER_REAL, 0)
        late = isinstance(error, OverLimitError)
        reason = outcome.over(job.timeout) if late else outcome.describe(error)
        return {"outcome": "failed", "reason": reason, "trace": f"{outcome.trace(error)}{reason}\n"}
    return {"outcome": "finished", "result": value}


def function(name: str, modules: Sequence[str]) -> Callable[..., Any]:
    """The declared task called ``name``. Raises RefusedError for what no listed module declares."""
    module, _, attribute = name.partition(":")
    found: Any = getattr(importlib.import_module(module), attribute, None) if module in modules else None
    if not callable(found) or not isinstance(getattr(found, MARK, None), TaskDeclaration):
        raise RefusedError(f"{name} is no declared task", hint="`hpcpools tasks` lists them")
    return cast("Callable[..., Any]", found)


def _time_is_up(_number: int, _frame: object) -> NoReturn:
    raise OverLimitError


def _redirect(place: BatchDirectory, number: int) -> None:
    """Everything printed, also by C code and children, goes to the task's own log; stdin is empty."""
    out = os.open(place.log(number), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (out, 1), (out, 2)):
        os.dup2(source, target)
    os.close(out)
    os.close(nothing)
