"""Whose process is it that NVML lists on a GPU: ours, somebody else's, gone, or nobody can say.

Reads /proc only. Never signals a process beyond asking whether it is there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

Whose = Literal["ours", "foreign", "gone", "unknown"]
Ask = Callable[[int], Whose]

# NVML lists the host's pids; only the first pid namespace (PROC_PID_INIT_INO of proc_ns.h) has the same.
_HOST_NAMESPACE = "pid:[4026531836]"
# The daemon of NVIDIA's multi-process service, as comm (15 characters) shows it: part of the site.
_SITE = ("nvidia-cuda-mps",)


def pids_match() -> bool:
    """False inside a container with pids of its own, where NVML's pids mean other processes."""
    try:
        return str(Path("/proc/self/ns/pid").readlink()) == _HOST_NAMESPACE
    except OSError:
        return False


def asker(since: int) -> Ask:
    """A judge of pids: ours is what our user started at or after ``since`` (clock ticks since boot)."""
    if not pids_match():
        return lambda _pid: "unknown"
    return lambda pid: whose(pid, since)


def whose(pid: int, since: int) -> Whose:
    """The judgement on one live or dead pid of this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "gone"
    except (PermissionError, OverflowError):
        return "unknown" if pid <= 0 else "foreign"
    if name(pid) in _SITE:
        return "unknown"
    try:
        mine = Path(f"/proc/{pid}").stat().st_uid == os.geteuid()
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # proc(5), from field 3 on
        started = int(facts[19])
    except (OSError, ValueError, IndexError):
        return "gone"
    if facts[0] in ("Z", "X"):
        return "gone"
    return "ours" if mine and started >= since else "foreign"


def name(pid: int) -> str:
    """The process's name as the kernel keeps it; empty if it cannot be read."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return ""
