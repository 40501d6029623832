"""The real processes of the fake's jobs: started, signalled and ended by pid and start time, never by name.

Owns /proc and the runner of a job. Its tree is everything below the runner, which adopts orphans.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from hpcpools import interpreter
from hpcpools.testing.world import Job
from hpcpools.training import nodeenv

Pid = tuple[int, int]  # and its start in ticks


def identity(pid: int) -> Pid:
    """A process that runs now."""
    return pid, nodeenv.process_start(pid)


def alive(process: Pid) -> bool:
    """Whether that very process runs; a zombie has ended."""
    return process[1] > 0 and nodeenv.process_start(process[0]) == process[1]


def age(process: Pid) -> float:
    """Seconds since its start (proc(5), uptime)."""
    up = float(Path("/proc/uptime").read_text().split()[0])
    return up - process[1] / os.sysconf("SC_CLK_TCK")


def spawn(folder: Path, job: Job) -> None:
    """Start the runner of an attempt; it waits for the lock that we hold, then finds itself in the job."""
    log = folder / "runner.log"
    with log.open("ab") as err:
        process = subprocess.Popen(
            interpreter.argv("hpcpools.testing.runner", str(folder), str(job.id)),
            stdin=subprocess.DEVNULL,
            stdout=err,
            stderr=err,
            env=nodeenv.child_environment(),
            start_new_session=True,
            cwd=folder,
        )
    job.runner = identity(process.pid)


def tree(pid: int) -> Iterator[int]:
    """All descendants of a process, not itself."""
    found = list(_children(pid))
    for child in found:
        yield child
        found.extend(_children(child))


def reached(job: Job, *, whole: bool) -> set[Pid]:
    """Whom a signal to the job reaches: every process of its steps, with ``whole`` the batch script's, too.

    As slurmstepd does it. Our own srun and the runner know to go on.
    """
    of_steps = {pid for step in job.steps if step.name != "batch" for pid in members(step.pids)}
    of_all = set(tree(job.runner[0])) if whole and alive(job.runner) else set()
    return {identity(pid) for pid in of_steps | of_all}


def script(job: Job) -> set[Pid]:
    """The batch script's own process alone."""
    return {pid for step in job.steps if step.name == "batch" for pid in step.pids}


def deliver(signals: Iterable[tuple[int, int, int]]) -> None:
    """Send signals to those that still live; not to us, who have a last word to print."""
    for pid, start, signum in signals:
        if pid != os.getpid() and alive((pid, start)):
            signal_all([pid], signum)


def members(roots: Iterable[Pid]) -> Iterator[int]:
    """Those processes and all below them, as far as they live."""
    for root in roots:
        if alive(root):
            yield root[0]
            yield from tree(root[0])


def end(job: Job, give_up: float = 10.0) -> bool:
    """SIGKILL for all of the job; its runner goes first and tells nothing. False if some stay."""
    found = [identity(pid) for pid in members([job.runner])]
    found += [identity(pid) for step in job.steps for pid in members(step.pids)]
    return end_all(found, give_up)


def end_all(found: Iterable[Pid], give_up: float = 10.0) -> bool:
    """SIGKILL for these processes and wait for it, at most ``give_up`` seconds; False if some stay."""
    found = list(found)
    deadline = time.monotonic() + give_up
    while left := [process for process in found if alive(process)]:
        signal_all([pid for pid, _ in left], signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def signal_all(pids: Iterable[int], signum: int) -> None:
    """One signal to many; who is gone is gone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signum)


def catches(job: Job, signum: int) -> bool:
    """Whether a process that would get the signal has a handler for it (proc(5), SigCgt)."""
    roots = [
        pid for step in job.steps if (step.name == "batch") == job.spec.signal_batch for pid in step.pids
    ]
    return any(_caught(pid) >> (signum - 1) & 1 for pid in members(roots))


def _caught(pid: int) -> int:
    with contextlib.suppress(OSError, StopIteration):
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in status if line.startswith("SigCgt")).split()[1], 16)
    return 0


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found
