"""What NVML says of the granted GPUs, as frozen data. Asks only; judging is the business of ``checks``.

Source: the entry points of nvidia-ml-py that are named below. A number that the driver does not give (not
supported, too old, not permitted) is None; any other error is kept under its check's id.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from hpcpools.gpu.processes import Ask, Whose, name

# nvml.h, nvmlReturn_t
INVALID_ARGUMENT, NOT_SUPPORTED, NO_PERMISSION = 2, 3, 4
LIBRARY_NOT_FOUND, FUNCTION_NOT_FOUND, GPU_IS_LOST, RESET_REQUIRED = 12, 13, 15, 16
NOT_TOLD = (NOT_SUPPORTED, NO_PERMISSION, FUNCTION_NOT_FOUND)
LOST = (GPU_IS_LOST, RESET_REQUIRED)
RECOVERY_ACTION = 230  # NVML_FI_DEV_GET_GPU_RECOVERY_ACTION
MEMORY_V2 = 0x02000028  # nvmlMemory_v2: `used` without what the driver reserves
LINKS = 36  # NVML_NVLINK_MAX_LINKS
LINK_ERRORS = (0, 1, 2)  # replay, recovery, CRC flit

Status = Literal["read", "no library", "failed", "hung", "not started"]
Note = Callable[[str], None]


@dataclass(frozen=True)
class Process:
    """A compute process on a GPU; ``memory`` in bytes if the driver tells."""

    pid: int
    whose: Whose
    name: str = ""
    memory: int | None = None


@dataclass(frozen=True)
class Links:
    """NVLink of one GPU: links that are up, links that are down, errors since the counters' start."""

    up: int = 0
    down: int = 0
    errors: int = 0


@dataclass(frozen=True)
class GpuReading:
    """One granted GPU. None means that the driver does not tell. Memory in bytes, temperatures in °C."""

    granted: str  # as Slurm named it: an index, GPU-uuid or MIG-uuid
    name: str = ""
    uuid: str = ""
    lost: str = ""  # why it cannot be used at all
    recovery: int | None = None
    mig: bool | None = None
    ecc: bool | None = None
    persistence: bool | None = None
    processes: tuple[Process, ...] | None = None
    memory_used: int | None = None
    memory_total: int | None = None
    ecc_uncorrected: int | None = None
    ecc_corrected: int | None = None
    remap_failure: bool | None = None
    remap_pending: bool | None = None
    retired: int | None = None
    retired_pending: bool | None = None
    clock_reasons: int | None = None
    temperature: int | None = None
    slowdown: int | None = None
    links: Links | None = None
    fabric_state: int | None = None
    fabric_status: int | None = None
    errors: dict[str, str] = field(default_factory=dict)  # check → what a call said instead


@dataclass(frozen=True)
class NodeReading:
    """All granted GPUs of a node, or why there is nothing to tell. ``visible``: GPUs that NVML shows."""

    status: Status
    detail: str = ""
    visible: int = 0
    gpus: tuple[GpuReading, ...] = ()


def take(nvml: Any, granted: tuple[str, ...], whose: Ask, note: Note = lambda _call: None) -> NodeReading:
    """Ask everything once. ``granted`` empty: all visible GPUs. ``note`` hears a call before it is made."""
    if nvml is None:
        return NodeReading("no library", "nvidia-ml-py cannot be imported")
    try:
        note("nvmlInit")
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        status: Status = "no library" if code(error) == LIBRARY_NOT_FOUND else "failed"
        return NodeReading(status, f"nvmlInit: {error}")
    try:
        note("nvmlDeviceGetCount")
        visible = int(nvml.nvmlDeviceGetCount())
        names = granted or tuple(str(index) for index in range(visible))
        return NodeReading(
            "read", visible=visible, gpus=tuple(_gpu(nvml, each, whose, note) for each in names)
        )
    except nvml.NVMLError as error:
        return NodeReading("failed", f"nvmlDeviceGetCount: {error}")
    finally:
        note("nvmlShutdown")
        nvml.nvmlShutdown()


def code(error: Exception) -> int:
    """NVML's number of an error."""
    return int(getattr(error, "value", 0) or 0)


def _gpu(nvml: Any, granted: str, whose: Ask, note: Note) -> GpuReading:
    try:
        handle = _handle(nvml, granted, note)
    except (nvml.NVMLError, ValueError) as error:
        return GpuReading(granted, lost=str(error) or type(error).__name__)
    facts: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for check, call, read in _QUESTIONS:
        note(f"{call} of GPU {granted}")
        try:
            facts.update(read(nvml, handle))
        except getattr(nvml, "NVMLLibraryMismatchError", ()):
            continue  # the binding's word for a function that an older driver has not
        except nvml.NVMLError as error:
            if code(error) in LOST:
                return GpuReading(granted, facts.get("name", ""), facts.get("uuid", ""), f"{call}: {error}")
            if code(error) not in NOT_TOLD:
                errors[check] = f"{call}: {error}"
    if (listed := facts.pop("listed", None)) is not None:
        facts["processes"] = tuple(
            Process(pid, whose(pid), name(pid), memory) for pid, memory in sorted(listed.items())
        )
    return GpuReading(granted, errors=errors, **facts)


def _handle(nvml: Any, granted: str, note: Note) -> Any:
    """The whole GPU, also for a granted slice of it."""
    note(f"the handle of GPU {granted}")
    if granted.isdigit():
        return nvml.nvmlDeviceGetHandleByIndex(int(granted))
    if not granted.startswith(("GPU-", "MIG-")):
        raise ValueError(f"{granted[:80]!r} names no GPU")
    handle = nvml.nvmlDeviceGetHandleByUUID(granted)
    if granted.startswith("MIG-"):
        return nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
    return handle


Facts = dict[str, Any]


def _identity(nvml: Any, handle: Any) -> Facts:
    return {"name": str(nvml.nvmlDeviceGetName(handle)), "uuid": str(nvml.nvmlDeviceGetUUID(handle))}


def _recovery(nvml: Any, handle: Any) -> Facts:
    found = nvml.nvmlDeviceGetFieldValues(handle, [RECOVERY_ACTION])[0]
    return {"recovery": int(found.value.uiVal)} if found.nvmlReturn == 0 else {}


def _mig(nvml: Any, handle: Any) -> Facts:
    return {"mig": bool(nvml.nvmlDeviceGetMigMode(handle)[0])}


def _ecc(nvml: Any, handle: Any) -> Facts:
    return {"ecc": bool(nvml.nvmlDeviceGetEccMode(handle)[0])}


def _persistence(nvml: Any, handle: Any) -> Facts:
    return {"persistence": bool(nvml.nvmlDeviceGetPersistenceMode(handle))}


def _processes(nvml: Any, handle: Any) -> Facts:
    found = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    return {"listed": {int(one.pid): one.usedGpuMemory for one in found}}


def _memory(nvml: Any, handle: Any) -> Facts:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle, version=MEMORY_V2)
    return {"memory_used": int(memory.used), "memory_total": int(memory.total)}


def _ecc_errors(nvml: Any, handle: Any) -> Facts:
    count = functools.partial(nvml.nvmlDeviceGetTotalEccErrors, handle)
    return {"ecc_corrected": int(count(0, 0)), "ecc_uncorrected": int(count(1, 0))}  # volatile counters


def _remapped(nvml: Any, handle: Any) -> Facts:
    _, _, pending, failure = nvml.nvmlDeviceGetRemappedRows(handle)
    return {"remap_pending": bool(pending), "remap_failure": bool(failure)}


def _retired(nvml: Any, handle: Any) -> Facts:
    pages = [len(nvml.nvmlDeviceGetRetiredPages(handle, cause)) for cause in (0, 1)]
    return {
        "retired": sum(pages),
        "retired_pending": bool(nvml.nvmlDeviceGetRetiredPagesPendingStatus(handle)),
    }


def _clocks(nvml: Any, handle: Any) -> Facts:
    try:
        return {"clock_reasons": int(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))}
    except nvml.NVMLError as error:
        if code(error) != FUNCTION_NOT_FOUND:
            raise
        return {"clock_reasons": int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))}  # the old name


def _temperature(nvml: Any, handle: Any) -> Facts:
    return {"temperature": int(nvml.nvmlDeviceGetTemperature(handle, 0))}


def _slowdown(nvml: Any, handle: Any) -> Facts:
    return {"slowdown": int(nvml.nvmlDeviceGetTemperatureThreshold(handle, 1))}


def _links(nvml: Any, handle: Any) -> Facts:
    states = list(_link_states(nvml, handle))
    if not states:
        return {}
    errors = 0
    for link, up in enumerate(states):
        for counter in LINK_ERRORS if up else ():
            try:
                errors += int(nvml.nvmlDeviceGetNvLinkErrorCounter(handle, link, counter))
            except nvml.NVMLError as error:
                if code(error) not in (*NOT_TOLD, INVALID_ARGUMENT):
                    raise
    return {"links": Links(sum(states), len(states) - sum(states), errors)}


def _link_states(nvml: Any, handle: Any) -> Iterator[bool]:
    for link in range(LINKS):
        try:
            yield bool(nvml.nvmlDeviceGetNvLinkState(handle, link))
        except nvml.NVMLError as error:
            if code(error) not in (*NOT_TOLD, INVALID_ARGUMENT):
                raise
            return  # no link of that number


def _fabric(nvml: Any, handle: Any) -> Facts:
    info = nvml.c_nvmlGpuFabricInfo_t()
    nvml.nvmlDeviceGetGpuFabricInfo(handle, ctypes.byref(info))
    return {"fabric_state": int(info.state), "fabric_status": int(info.status)}


_QUESTIONS: tuple[tuple[str, str, Callable[[Any, Any], Facts]], ...] = (
    ("GPU-1", "nvmlDeviceGetUUID", _identity),
    ("GPU-2", "nvmlDeviceGetFieldValues", _recovery),
    ("GPU-3", "nvmlDeviceGetMigMode", _mig),
    ("GPU-3", "nvmlDeviceGetEccMode", _ecc),
    ("GPU-3", "nvmlDeviceGetPersistenceMode", _persistence),
    ("GPU-4", "nvmlDeviceGetComputeRunningProcesses", _processes),
    ("GPU-5", "nvmlDeviceGetMemoryInfo", _memory),
    ("GPU-6", "nvmlDeviceGetTotalEccErrors", _ecc_errors),
    ("GPU-7", "nvmlDeviceGetRemappedRows", _remapped),
    ("GPU-8", "nvmlDeviceGetRetiredPages", _retired),
    ("GPU-10", "nvmlDeviceGetCurrentClocksEventReasons", _clocks),
    ("GPU-11", "nvmlDeviceGetTemperature", _temperature),
    ("GPU-11", "nvmlDeviceGetTemperatureThreshold", _slowdown),
    ("GPU-13", "nvmlDeviceGetNvLinkState", _links),
    ("GPU-13", "nvmlDeviceGetGpuFabricInfo", _fabric),
)
