"""The processes of one lab as /proc shows them: which are ours, whom they serve, how they end.
Refuses to go by names or pid files alone: every signal goes to a pid whose identity was just read."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

DAEMONS = frozenset({"slurmctld", "slurmd", "slurmstepd", "slurmdbd", "munged", "mariadbd", "mysqld"})


@dataclass(frozen=True)
class Process:
    """One process at one moment; `started` (clock ticks after boot) tells a reused pid from the old one."""

    pid: int
    parent: int
    started: int
    name: str
    argv: tuple[str, ...]
    env: dict[str, str]


def read(pid: int) -> Process | None:
    """Return the process, or None when it is gone, a zombie or not ours to read."""
    proc = Path("/proc") / str(pid)
    try:
        head, _, rest = (proc / "stat").read_text(errors="replace").rpartition(")")
        argv = (proc / "cmdline").read_bytes().decode(errors="replace").split("\0")
        environ = (proc / "environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    state, parent, *fields = rest.split()
    if state in "ZX":
        return None
    env = dict(item.split("=", 1) for item in environ if "=" in item)
    return Process(pid, int(parent), int(fields[17]), head.partition("(")[2], tuple(argv), env)


def members(conf: Path) -> list[Process]:
    """Return every process of the lab with this slurm.conf: daemons, job steps, jobs and what they started.

    A shell or a test run that merely exports SLURM_CONF is not one of them.
    """
    table = {p.pid: p for p in map(read, map(int, filter(str.isdigit, os.listdir("/proc")))) if p}
    ours = {
        p.pid
        for p in table.values()
        if p.env.get("SLURM_CONF") == str(conf) and (p.name in DAEMONS or "SLURMD_NODENAME" in p.env)
    }
    ours |= {pid for pid in table if ours.intersection(_ancestors(pid, table))}
    return [table[pid] for pid in sorted(ours)]


def on_node(node: str, everything: Iterable[Process]) -> list[Process]:
    """Return those of a lab's processes that serve one of its nodes: slurmd, its steps and their jobs."""
    table = {p.pid: p for p in everything}
    here = {p.pid for p in table.values() if _serves(p, node)}
    here |= {pid for pid in table if here.intersection(_ancestors(pid, table))}
    return [table[pid] for pid in sorted(here)]


def send(process: Process, signum: int) -> bool:
    """Send a signal if the pid still is that process; False when it is gone."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        now = read(process.pid)
        if now is None or now.started != process.started:
            return False
        signal.pidfd_send_signal(handle, signum)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def end(find: Callable[[], list[Process]], *, grace: float) -> None:
    """Ask all that `find` returns to stop, and after `grace` seconds kill it, until nothing is found.

    Raises:
        TimeoutError: something survives SIGKILL for ten seconds.
    """
    kill_at = time.monotonic() + grace
    asked: set[int] = set()
    while left := find():
        killing = time.monotonic() >= kill_at
        if time.monotonic() > kill_at + 10:
            raise TimeoutError(f"still running after SIGKILL: {[(p.pid, p.name) for p in left]}")
        for process in left:
            if killing:
                send(process, signal.SIGKILL)
            elif process.pid not in asked:
                asked.add(process.pid)
                send(process, signal.SIGTERM)
                send(process, signal.SIGCONT)  # a paused one cannot hear SIGTERM
        time.sleep(0.05)


def _ancestors(pid: int, table: dict[int, Process]) -> list[int]:
    found: list[int] = []
    while pid in table and table[pid].parent not in found:
        pid = table[pid].parent
        found.append(pid)
    return found


def _serves(process: Process, node: str) -> bool:
    if process.name == "slurmd":
        return node in process.argv
    if process.name == "slurmstepd":  # carries no node in its environment, but writes to its slurmd's log
        return any(target.endswith(f"/log/{node}.log") for target in _open_files(process.pid))
    return process.env.get("SLURMD_NODENAME") == node


def _open_files(pid: int) -> list[str]:
    folder = Path("/proc") / str(pid) / "fd"
    try:
        return [str(link.readlink()) for link in folder.iterdir()]
    except OSError:
        return []
