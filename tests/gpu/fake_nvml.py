"""A pynvml without a GPU: healthy unless its profile says otherwise.

Injected as an object, or installed as the module ``pynvml`` on the PYTHONPATH of a job (``install``), where
it reads its profile from the file beside it.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

NOT_SUPPORTED, LIBRARY_NOT_FOUND, FUNCTION_NOT_FOUND, LOST, UNKNOWN = 3, 12, 13, 15, 999

# What a healthy GPU answers, in the plain form that a profile's "set" overrules.
HEALTHY: dict[str, Any] = {
    "nvmlDeviceGetFieldValues": 0,
    "nvmlDeviceGetMigMode": 0,
    "nvmlDeviceGetEccMode": 1,
    "nvmlDeviceGetPersistenceMode": 1,
    "nvmlDeviceGetComputeRunningProcesses": [],
    "nvmlDeviceGetMemoryInfo": 4 << 20,
    "nvmlDeviceGetTotalEccErrors": [0, 0],
    "nvmlDeviceGetRemappedRows": [0, 0, 0, 0],
    "nvmlDeviceGetRetiredPages": 0,
    "nvmlDeviceGetRetiredPagesPendingStatus": 0,
    "nvmlDeviceGetCurrentClocksEventReasons": 1,
    "nvmlDeviceGetTemperature": 35,
    "nvmlDeviceGetTemperatureThreshold": 90,
    "nvmlDeviceGetNvLinkState": 4,
    "nvmlDeviceGetNvLinkErrorCounter": 0,
    "nvmlDeviceGetGpuFabricInfo": [3, 0],
    "nvmlDeviceGetUtilizationRates": 0,
    "nvmlDeviceGetPowerUsage": 61_500,
}


class NVMLError(Exception):
    """As pynvml's: ``value`` is NVML's number."""

    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.value = value

    def __str__(self) -> str:
        return {LOST: "GPU is lost", LIBRARY_NOT_FOUND: "Library Not Found"}.get(self.value, f"E{self.value}")


class FabricInfo(ctypes.Structure):
    """What we read of pynvml's."""

    _fields_ = [("status", ctypes.c_uint), ("state", ctypes.c_ubyte)]


class FakeNvml:
    """The entry points of NVML, by a profile.

    ``gpus``: how many; ``set``: {call: answer}; ``raises``: {call: number}; ``hang``: [call]; ``on``: the one
    GPU that these concern (all if left out); ``node``: the one sick node (all if left out).
    """

    NVMLError = NVMLError
    c_nvmlGpuFabricInfo_t = FabricInfo  # noqa: N815 - pynvml's name

    def __init__(self, profile: dict[str, Any] | None = None) -> None:
        self.profile = profile or {}
        self.open = 0
        here = os.environ.get("SLURMD_NODENAME")
        self.sick = self.profile.get("node") in (None, here)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            raise AttributeError(name)
        return lambda *args, **more: self._call(name, args, more)

    def _call(self, name: str, args: tuple[Any, ...], more: dict[str, Any]) -> Any:
        device = name.startswith("nvmlDeviceGet") and not name.startswith(
            ("nvmlDeviceGetCount", "nvmlDeviceGetHandle", "nvmlDeviceGetDeviceHandle")
        )
        concerned = self.sick and (not device or self.profile.get("on") in (None, args[0]))
        if concerned and name in self.profile.get("hang", ()):
            time.sleep(3600)
        if concerned and name in self.profile.get("raises", {}):
            raise NVMLError(self.profile["raises"][name])
        answer = HEALTHY.get(name)
        if concerned:
            answer = self.profile.get("set", {}).get(name, answer)
        if device and answer is None and name not in ("nvmlDeviceGetName", "nvmlDeviceGetUUID"):
            raise NVMLError(FUNCTION_NOT_FOUND)  # an older driver's or binding's name
        return self._answer(name, answer, args)

    def _answer(self, name: str, value: Any, args: tuple[Any, ...]) -> Any:  # noqa: PLR0912
        count = self.profile.get("gpus", 4) if self.sick else 4
        if name == "nvmlInit":
            self.open += 1
        elif name == "nvmlShutdown":
            self.open -= 1
        elif name == "nvmlDeviceGetCount":
            return count
        elif name == "nvmlDeviceGetHandleByIndex":
            if args[0] >= count:
                raise NVMLError(2)
            return args[0]
        elif name == "nvmlDeviceGetHandleByUUID":
            return int(args[0].rpartition("-")[2])
        elif name == "nvmlDeviceGetDeviceHandleFromMigDeviceHandle":
            return args[0]
        elif name == "nvmlDeviceGetName":
            return "NVIDIA Fake 80GB"
        elif name == "nvmlDeviceGetUUID":
            return f"GPU-fake-{args[0]}"
        elif name == "nvmlDeviceGetFieldValues":
            return [SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(uiVal=value))]
        elif name in ("nvmlDeviceGetMigMode", "nvmlDeviceGetEccMode"):
            return [value, value]
        elif name == "nvmlDeviceGetComputeRunningProcesses":
            return [SimpleNamespace(pid=pid, usedGpuMemory=memory) for pid, memory in value]
        elif name == "nvmlDeviceGetMemoryInfo":
            return SimpleNamespace(used=value, total=80 << 30)
        elif name == "nvmlDeviceGetUtilizationRates":
            return SimpleNamespace(gpu=value)
        elif name == "nvmlDeviceGetTotalEccErrors":
            return value[args[1]]
        elif name == "nvmlDeviceGetRetiredPages":
            return list(range(value))
        elif name == "nvmlDeviceGetNvLinkState":
            if args[1] >= 4:
                raise NVMLError(2)
            return int(args[1] < value)
        elif name == "nvmlDeviceGetGpuFabricInfo":
            args[1]._obj.state, args[1]._obj.status = value
        return value


def install(folder: Path, profile: dict[str, Any]) -> Path:
    """Make ``folder`` hold a module ``pynvml`` of this profile; put it on PYTHONPATH."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(__file__, folder / "pynvml.py")
    (folder / "profile.json").write_text(json.dumps(profile))
    return folder


if __name__ == "pynvml":
    _fake = FakeNvml(json.loads(Path(__file__).with_name("profile.json").read_text()))

    def __getattr__(name: str) -> Any:
        return getattr(_fake, name)
