"""The on-node record of out of memory: how often the kernel killed a process of this job's cgroup.

Slurm marks only the step, and a launcher reports its killed child as exit code 1: without this count the
cause would be the user's code. Source: the kernel's cgroup-v1/memory.rst (memory.oom_control) and
cgroup-v2.rst (memory.events). Where neither can be read nothing is known, and nothing is said.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hpcpools.runs.states import Cause
from hpcpools.training.ending import Ending

PROC = Path("/proc/self/cgroup")
MOUNT = Path("/sys/fs/cgroup")
REASON = "the kernel killed a process of the job: out of memory"


def kills(proc: Path = PROC, mount: Path = MOUNT) -> int:
    """Processes of our cgroup that were killed for memory so far; 0 where that cannot be read."""
    try:
        lines = _counters(proc.read_text(), mount).read_text().splitlines()
        counts = dict(line.split(" ", 1) for line in lines if " " in line)
        return int(counts.get("oom_kill", 0))
    except (OSError, ValueError):
        return 0


def _counters(membership: str, mount: Path) -> Path:
    """The file with our group's counters: that of the memory controller (v1), else of the one tree (v2)."""
    paths = {}
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path.lstrip("/")))
    if "memory" in paths:
        return mount / "memory" / paths["memory"] / "memory.oom_control"
    return mount / paths.get("", "") / "memory.events"


def blame(ending: Ending, before: int) -> Ending:
    """``ending``, with memory as its cause if it is bad and processes were killed for it since ``before``."""
    if ending.outcome not in ("failed", "killed") or ending.cause is Cause.OUT_OF_MEMORY or kills() <= before:
        return ending
    error = "\n".join(text for text in (ending.error, REASON) if text)
    return replace(ending, outcome="failed", cause=Cause.OUT_OF_MEMORY, error=error)
