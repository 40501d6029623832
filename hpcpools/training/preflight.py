"""The GPU checks around a training: before it they may refuse the node, after it they only take notes.

Owns ``preflight.json`` and ``postflight.json`` of an attempt, and the node's record. It never kills a
process and never repairs: the next attempt goes to another node.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpcpools import atomic
from hpcpools.errors import HpcpoolsError
from hpcpools.gpu import checks, probe
from hpcpools.gpu.checks import Finding
from hpcpools.gpu.reading import NodeReading
from hpcpools.runs import nodes
from hpcpools.runs.attempts import Place
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Request
from hpcpools.runs.states import Cause
from hpcpools.textsafe import one_line
from hpcpools.training import nodeenv
from hpcpools.training.ending import STOPPED_EXIT, Ending

# (GPUs as granted, our start in clock ticks, seconds left) → what NVML says.
Read = Callable[[Request, int, float], NodeReading]
TRIES = 3
PAUSE = 3.0  # seconds between two tries: what the job before us may still need to leave


def run(
    directory: RunDirectory, request: Request, folder: Path, place: Place, *, pause: float = PAUSE
) -> Ending | None:
    """Check the node's GPUs; the ending of a refused attempt, or None: go on.

    Without GPUs, or switched off, nothing is asked. On the local engine there is no other node to go to:
    findings are noted, nothing is refused. Takes at most ``total_timeout`` of the config, plus the start of
    one Python process.
    """
    if not _wanted(request):
        return None
    limits = request.gpu_checks
    began = time.monotonic()
    reading = NodeReading("not started")
    found: tuple[Finding, ...] = ()
    for left in range(TRIES - 1, -1, -1):
        spent = time.monotonic() - began
        reading = read(request, place.pid_start, limits.total_timeout - spent)
        found = checks.judge(reading, limits, request.resources.gpus)
        spent = time.monotonic() - began
        if not left or not checks.passing(found) or spent + pause >= limits.total_timeout:
            break
        time.sleep(pause)
    evidence = _evidence("preflight", place, reading, found, time.monotonic() - began)
    _keep(directory, request, folder, place, evidence)
    if not checks.failed(found) or request.engine != "slurm":
        return None
    error = f"node {one_line(place.node)} is unfit: " + "; ".join(str(one) for one in found[:3])
    return Ending("failed", STOPPED_EXIT, cause=Cause.BAD_NODE, error=error)


def again(directory: RunDirectory, request: Request, folder: Path, place: Place) -> None:
    """What the training left behind: for the record of the node, never for the outcome of the run."""
    if not _wanted(request):
        return
    limits = request.gpu_checks
    began = time.monotonic()
    reading = read(request, place.pid_start, limits.total_timeout)
    found = checks.after_training(reading, limits, request.resources.gpus)
    if (before := _reading_before(folder)) is not None:
        found += checks.new_link_errors(before, reading, limits)
    evidence = _evidence("postflight", place, reading, found, time.monotonic() - began)
    _keep(directory, request, folder, place, evidence)


def read(request: Request, since: int, left: float) -> NodeReading:
    """One bounded reading of the GPUs that this job was granted."""
    limits = request.gpu_checks
    return probe.read(
        nodeenv.granted_gpus(),
        since,
        call_timeout=limits.call_timeout,
        total_timeout=max(0.1, left),
        env=nodeenv.child_environment(),
    )


def _wanted(request: Request) -> bool:
    return request.gpu_checks.enabled and request.resources.gpus > 0


def _evidence(
    phase: str, place: Place, reading: NodeReading, found: tuple[Finding, ...], seconds: float
) -> dict[str, Any]:
    verdict = "FAIL" if checks.failed(found) else "WARN" if found else "OK"
    if not found and reading.status != "read":
        verdict = "SKIPPED"
    return {
        "at": time.time(),
        "phase": phase,
        "node": place.node,
        "job_id": place.job_id,
        "verdict": verdict,
        "findings": [asdict(one) for one in found],
        "seconds": round(seconds, 3),
        "reading": asdict(reading),
    }


def _keep(
    directory: RunDirectory, request: Request, folder: Path, place: Place, evidence: dict[str, Any]
) -> None:
    """Say it in the log, write it beside the attempt and, if something was found, into the node's record."""
    phase = str(evidence["phase"])
    for one in evidence["findings"]:
        print(f"hpcpools: {phase}: {one['check']} {one['level'].value} {one['value']}", file=sys.stderr)
    if evidence["verdict"] == "SKIPPED":
        print(f"hpcpools: {phase}: no GPU checks: {evidence['reading']['detail']}", file=sys.stderr)
    sys.stderr.flush()
    try:
        atomic.write_json(folder / f"{phase}.json", evidence)
        worth = evidence["verdict"] == "FAIL" or (evidence["verdict"] == "WARN" and phase == "postflight")
        if worth and request.engine == "slurm":
            nodes.record_failure(directory.root, place.node, directory.token, evidence)
    except (OSError, HpcpoolsError) as error:  # no reason to lose a training
        print(f"hpcpools: {phase}: the evidence could not be written: {error}", file=sys.stderr)


def _reading_before(folder: Path) -> NodeReading | None:
    import msgspec

    found = atomic.read_json(folder / "preflight.json")
    try:
        return msgspec.convert(found["reading"], NodeReading) if found else None
    except (msgspec.ValidationError, KeyError, TypeError):
        return None
