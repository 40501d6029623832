"""How busy the GPUs are at one moment: utilisation, memory, power, memory of each process.

Source: nvmlDeviceGetUtilizationRates, GetMemoryInfo, GetPowerUsage, GetComputeRunningProcesses. What the
driver does not tell is None.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """One GPU now. ``util`` in percent, ``memory`` in MiB, ``power`` in watts, ``processes`` pid → MiB."""

    gpu: str
    util: int | None = None
    memory: int | None = None
    power: float | None = None
    processes: dict[str, int] | None = None


class Sampler:
    """NVML opened once, for many samples of the granted GPUs (all if ``granted`` is empty).

    Raises the binding's NVMLError if there is no NVML or a GPU of that name is not there.
    """

    def __init__(self, nvml: Any, granted: tuple[str, ...]) -> None:
        self._nvml = nvml
        nvml.nvmlInit()
        names = granted or tuple(str(index) for index in range(int(nvml.nvmlDeviceGetCount())))
        self._handles = {name: self._handle(name) for name in names}

    def take(self) -> tuple[Sample, ...]:
        """All GPUs, one after the other."""
        return tuple(self._sample(name, handle) for name, handle in self._handles.items())

    def _handle(self, name: str) -> Any:
        if name.isdigit():
            return self._nvml.nvmlDeviceGetHandleByIndex(int(name))
        return self._nvml.nvmlDeviceGetHandleByUUID(name)

    def _sample(self, name: str, handle: Any) -> Sample:
        nvml = self._nvml
        return Sample(
            name,
            self._told(lambda: int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)),
            self._told(lambda: int(nvml.nvmlDeviceGetMemoryInfo(handle).used) >> 20),
            self._told(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
            self._told(
                lambda: {
                    str(one.pid): (one.usedGpuMemory or 0) >> 20
                    for one in nvml.nvmlDeviceGetComputeRunningProcesses(handle)
                }
            ),
        )

    def _told(self, ask: Callable[[], T]) -> T | None:
        mismatch = getattr(self._nvml, "NVMLLibraryMismatchError", self._nvml.NVMLError)
        try:
            return ask()
        except (self._nvml.NVMLError, mismatch):
            return None
