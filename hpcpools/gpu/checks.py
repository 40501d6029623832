"""The judgement over one reading: a table of pure checks, each silent, a warning, or a failure.

A number the driver does not tell is no finding; an error of a single call is a warning, a lost GPU a failure.
Sources of the thresholds: NVIDIA's GPU memory error management guide, Meta's GCM, Imbue's cluster-health.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from hpcpools.gpu.reading import GpuReading, NodeReading
from hpcpools.schema import GpuChecks

# nvml.h: nvmlDeviceGpuRecoveryAction_t
_RECOVERY = {
    1: "reset the GPU",
    2: "reboot the node",
    3: "drain peer-to-peer",
    4: "drain and reset",
    5: "recover the IMEX domain",
    6: "reset the bus",
    7: "reboot the system",
}
_RECOVERY_FAILS = (1, 2, 4, 6, 7)
_DRAIN_P2P = 3
# nvml.h: nvmlClocksEventReason...
_SW_THERMAL, _HW_THERMAL, _HW_POWER_BRAKE = 0x20, 0x40, 0x80
# nvml.h: NVML_GPU_FABRIC_STATE_...
_FABRIC_COMPLETED = 3

BEFORE = (
    "GPU-1",
    "GPU-2",
    "GPU-3",
    "GPU-4",
    "GPU-5",
    "GPU-6",
    "GPU-7",
    "GPU-8",
    "GPU-10",
    "GPU-11",
    "GPU-13",
)
AFTER = ("GPU-1", "GPU-4", "GPU-5", "GPU-6", "GPU-7")
# What a job that has just ended may still be giving back: worth a second look.
PASSING = ("GPU-4", "GPU-5")


class Level(str, Enum):
    """How bad a finding is."""

    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Finding:
    """One check that did not pass. ``gpu`` as Slurm named it, empty for the node; ``value`` what was seen."""

    check: str
    level: Level
    value: str
    gpu: str = ""
    uuid: str = ""

    def __str__(self) -> str:
        where = f" on GPU {self.gpu} ({self.uuid or 'no UUID'})" if self.gpu else ""
        return f"{self.check} {self.level.value}{where}: {self.value}"


Found = Iterator[tuple[Level, str]]
_FAIL, _WARN = Level.FAIL, Level.WARN


def judge(
    reading: NodeReading, limits: GpuChecks, expected: int, checks: Iterable[str] = BEFORE
) -> tuple[Finding, ...]:
    """All findings on ``reading``, worst first. ``expected``: how many GPUs the job was granted."""
    wanted = [check for check in checks if check not in limits.skip]
    if reading.status == "not started":
        return ()
    if reading.status == "no library":
        missing = Finding("GPU-1", _FAIL, f"no NVML library: {reading.detail}")
        return (missing,) if limits.require_nvml else ()
    if reading.status != "read":
        return (Finding("GPU-1", _FAIL, f"NVML {reading.status}: {reading.detail}"),)
    found = [Finding(*each) for each in _node(reading, expected, wanted)]
    for gpu in reading.gpus:
        if gpu.lost:
            found.append(Finding("GPU-1", _FAIL, gpu.lost, gpu.granted, gpu.uuid))
            continue
        for check in wanted:
            for level, value in _CHECKS[check](gpu, reading, limits):
                found.append(Finding(check, level, value, gpu.granted, gpu.uuid))
            if said := gpu.errors.get(check):
                found.append(Finding(check, _WARN, f"no answer: {said}", gpu.granted, gpu.uuid))
    return tuple(sorted(found, key=lambda one: one.level is not _FAIL))


def failed(findings: Iterable[Finding]) -> bool:
    """True if the node must not be used."""
    return any(one.level is _FAIL for one in findings)


def passing(findings: Iterable[Finding]) -> bool:
    """True if it failed, but only for what may pass within seconds."""
    fails = [one.check for one in findings if one.level is _FAIL]
    return bool(fails) and all(check in PASSING for check in fails)


def new_link_errors(before: NodeReading, after: NodeReading, limits: GpuChecks) -> tuple[Finding, ...]:
    """GPU-13 over a training: errors that its own time added."""
    earlier = {gpu.uuid: gpu.links.errors for gpu in before.gpus if gpu.links}
    found = []
    for gpu in after.gpus if "GPU-13" not in limits.skip else ():
        new = gpu.links.errors - earlier.get(gpu.uuid, gpu.links.errors) if gpu.links else 0
        if new >= limits.link_errors_warn:
            found.append(Finding("GPU-13", _WARN, f"{new} new NVLink errors", gpu.granted, gpu.uuid))
    return tuple(found)


def after_training(reading: NodeReading, limits: GpuChecks, expected: int) -> tuple[Finding, ...]:
    """What is left behind. Memory is judged only on a GPU with no process: our own may still hold some."""
    busy = {gpu.granted for gpu in reading.gpus if gpu.processes is None or gpu.processes}
    found = judge(reading, limits, expected, AFTER)
    return tuple(one for one in found if one.check != "GPU-5" or one.gpu not in busy)


def _node(reading: NodeReading, expected: int, wanted: list[str]) -> Iterator[tuple[str, Level, str]]:
    names = [gpu.granted for gpu in reading.gpus]
    if not any(name.startswith("MIG-") for name in names) and len(names) < expected:
        yield "GPU-1", _FAIL, f"{len(names)} GPUs, {expected} granted; NVML shows {reading.visible}"
    uuids = [gpu.uuid for gpu in reading.gpus if gpu.uuid and not gpu.granted.startswith("MIG-")]
    if "GPU-3" in wanted and len(set(uuids)) < len(uuids):
        yield "GPU-3", _FAIL, f"one GPU is granted twice: {', '.join(names)}"


def _count(gpu: GpuReading, node: NodeReading, limits: GpuChecks) -> Found:
    yield from ()  # the count is the node's (above), a lost GPU ends its checks (judge)


def _recovery(gpu: GpuReading, node: NodeReading, limits: GpuChecks) -> Found:
    if not gpu.recovery:
        return
    several = gpu.recovery == _DRAIN_P2P and len(node.gpus) > 1
    bad = gpu.recovery in _RECOVERY_FAILS or several
    action = _RECOVERY.get(gpu.recovery, f"action {gpu.recovery}")
    yield _FAIL if bad else _WARN, f"the driver asks to {action}"


def _grant(gpu: GpuReading, node: NodeReading, limits: GpuChecks) -> Found:
    if gpu.mig and not gpu.granted.startswith("MIG-"):
        yield _FAIL, "MIG is on, but a whole GPU was granted"
    if gpu.ecc is False:
        yield _WARN, "ECC is off"
    if gpu.persistence is False:
        yield _WARN, "persistence mode is off"


def _processes(gpu: GpuReading, node: NodeReading, limits: GpuChecks) -> Found:
    if gpu.granted.startswith("MIG-"):
        return  # other slices of the GPU have other users
    for process in gpu.processes or ():
        memory = "" if process.memory is None else f" with {process.memory >> 20} MiB"
        if process.whose == "foreign":
            yield _FAIL, f"foreign process {process.pid} ({process.name or '?'}){memory}"
        elif process.whose == "gone":
            yield _WARN, f"process {process.pid} is listed{memory} but gone"


def _memory(gpu: GpuReading, node: NodeReading, limits: GpuChecks) -> Found:
    if gpu.memory_used is None or not gpu.memory_total or gpu.granted.startswith("MIG-"):
        return
    used, total = gpu.memory_used / 2**20, gpu.memory_total / 2**20
    if used > limits.memory_fail_mib or used > total * limits.memory_fail_percent / 100:
        yield _FAIL, f"{used:.0f} of {total:.0f} MiB are in use"
    elif used > limits.memory_warn_mib:
        yield _WARN, f"{used:.0f} of {total:.0f} MiB are in use"


def _ecc(gpu: GpuReading, node: NodeReading, limits: GpuChecks) -> Found:
    if gpu.ecc_uncorrected:
        yield _FAIL, f"{gpu.ecc_uncorrected} uncorrected ECC errors"
    elif (gpu.ecc_corrected or 0) > limits.ecc_corrected_warn:
        yield _WARN, f"{gpu.ecc_corrected} corrected ECC errors"


def _remapped(gpu: GpuReading, node: NodeReading, limits: GpuChecks) -> Found:
    if gpu.remap_failure:
        yield _FAIL, "a row could not be remapped"
    elif gpu.remap_pending:
        yield _FAIL if limits.strict else _WARN, "a row remap waits for a reset"


def _retired(gpu: GpuReading, node: NodeReading, limits: GpuChecks) -> Found:
    if (gpu.retired or 0) > limits.retired_pages_fail:
        yield _FAIL, f"{gpu.retired} retired pages"
    elif gpu.retired_pending:
        yield _FAIL if limits.strict else _WARN, "a page retirement waits for a reset"


def _clocks(gpu: GpuReading, node: NodeReading, limits: GpuChecks) -> Found:
    reasons = gpu.clock_reasons or 0
    if reasons & (_HW_THERMAL | _HW_POWER_BRAKE):
        which = "thermal slowdown" if reasons & _HW_THERMAL else "power brake"
        yield _FAIL, f"hardware {which} at idle (reasons 0x{reasons:x})"
    elif reasons & _SW_THERMAL:
        yield _WARN, f"software thermal slowdown (reasons 0x{reasons:x})"


def _temperature(gpu: GpuReading, node: NodeReading, limits: GpuChecks) -> Found:
    if gpu.temperature is None:
        return
    if gpu.slowdown and gpu.temperature >= gpu.slowdown - limits.temperature_margin:
        yield _FAIL, f"{gpu.temperature} °C, it slows down at {gpu.slowdown} °C"
    elif gpu.temperature > limits.temperature_warn:
        yield _WARN, f"{gpu.temperature} °C before the training"


def _links(gpu: GpuReading, node: NodeReading, limits: GpuChecks) -> Found:
    if len(node.gpus) < 2:
        return
    if gpu.fabric_state and (gpu.fabric_state != _FABRIC_COMPLETED or gpu.fabric_status):
        yield _FAIL, f"fabric state {gpu.fabric_state}, status {gpu.fabric_status}: not complete"
    # A board may have links that no bridge connects: the GPUs of the same model tell what is right here.
    if gpu.links is None:
        return
    like = [other.links.up for other in node.gpus if other.links is not None and other.name == gpu.name]
    up, most = gpu.links.up, max(like)
    linked = sum(1 for links in like if links)
    if up < most:
        bad = up > 0 or 2 * linked > len(like)
        yield _FAIL if bad else _WARN, f"{up} NVLinks are up, {most} on its like"


_CHECKS: dict[str, Callable[[GpuReading, NodeReading, GpuChecks], Found]] = {
    "GPU-1": _count,
    "GPU-2": _recovery,
    "GPU-3": _grant,
    "GPU-4": _processes,
    "GPU-5": _memory,
    "GPU-6": _ecc,
    "GPU-7": _remapped,
    "GPU-8": _retired,
    "GPU-10": _clocks,
    "GPU-11": _temperature,
    "GPU-13": _links,
}
