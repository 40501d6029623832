"""The only place that imports pynvml: what GPUs this machine has, bounded, never an exception.

Source: NVML's nvmlDeviceGetCount, nvmlDeviceGetName, nvmlDeviceGetMemoryInfo, nvmlDeviceGetUtilizationRates.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from msgspec import Struct


class Gpu(Struct, frozen=True):
    """One GPU now. Memory in MiB, ``utilisation`` in percent or None where NVML does not tell (MIG)."""

    index: int
    name: str
    uuid: str
    memory_total: int
    memory_used: int
    utilisation: int | None


def count() -> int:
    """GPUs of this machine; 0 where there is no NVIDIA driver.

    Which is asked first, as NVML's binding asks: importing that takes longer than all of a command's answer.
    """
    import ctypes

    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return 0
    return len(gpus())


def gpus(nvml: Any = None) -> tuple[Gpu, ...]:
    """All GPUs of this machine; empty where there is no driver. ``nvml`` is for tests."""
    module = nvml or binding()
    if module is None:
        return ()
    try:
        module.nvmlInit()
    except module.NVMLError:
        return ()
    try:
        return tuple(_read(module, index) for index in range(module.nvmlDeviceGetCount()))
    except module.NVMLError:
        return ()
    finally:
        module.nvmlShutdown()


def binding() -> ModuleType | None:
    """nvidia-ml-py, or None where it cannot be imported."""
    try:
        import pynvml
    except ImportError:
        return None
    module: ModuleType = pynvml
    return module


def _read(module: Any, index: int) -> Gpu:
    handle = module.nvmlDeviceGetHandleByIndex(index)
    memory = module.nvmlDeviceGetMemoryInfo(handle)
    try:
        utilisation: int | None = int(module.nvmlDeviceGetUtilizationRates(handle).gpu)
    except module.NVMLError:
        utilisation = None
    return Gpu(
        index=index,
        name=str(module.nvmlDeviceGetName(handle)),
        uuid=str(module.nvmlDeviceGetUUID(handle)),
        memory_total=int(memory.total) >> 20,
        memory_used=int(memory.used) >> 20,
        utilisation=utilisation,
    )
