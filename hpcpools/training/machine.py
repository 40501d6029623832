"""On the node: what machine an attempt ran on, written into the attempt as ``environment.json``.

Owns that one file. It is a note for people: failing to write it is no reason to lose a training.
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import sys
from pathlib import Path
from typing import Any

from hpcpools import atomic
from hpcpools.gpu import driver, probe
from hpcpools.runs.request import Request
from hpcpools.training import nodeenv


def record(request: Request, folder: Path, pid_start: int) -> None:
    """Write the machine's facts into the attempt's ``folder``; GPUs as the checks before it saw them."""
    facts = {
        "host": socket.gethostname(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "cpus_allowed": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "prefix": sys.prefix,
        "gpu_driver": driver.version(),
        "gpus": _gpus(request, folder, pid_start),
    }
    try:
        atomic.write_json(folder / "environment.json", facts)
    except OSError as error:
        print(f"hpcpools: environment.json could not be written: {error}", file=sys.stderr)


def _gpus(request: Request, folder: Path, pid_start: int) -> list[dict[str, str]]:
    if not request.resources.gpus:
        return []
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        checked: Any = atomic.read_json(folder / "preflight.json")
        gpus = checked["reading"]["gpus"]
        return [{"name": str(gpu["name"]), "uuid": str(gpu["uuid"])} for gpu in gpus]
    env = nodeenv.child_environment()
    found = probe.read(nodeenv.granted_gpus(), pid_start, call_timeout=5, total_timeout=10, env=env)
    return [{"name": gpu.name, "uuid": gpu.uuid} for gpu in found.gpus]
