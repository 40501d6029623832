"""GPUs of this machine, through NVML or without it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hpcpools import gpu


class NVMLError(Exception):
    """As pynvml's."""


class FakeNvml:
    """The entry points that gpu.py calls, as nvidia-ml-py names them."""

    NVMLError = NVMLError

    def __init__(self, count: int, *, fail: str = "") -> None:
        self.count, self.fail, self.open = count, fail, 0

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any) -> Any:
            if name == self.fail:
                raise NVMLError(name)
            self.open += {"nvmlInit": 1, "nvmlShutdown": -1}.get(name, 0)
            return {
                "nvmlDeviceGetCount": self.count,
                "nvmlDeviceGetHandleByIndex": args[-1] if args else None,
                "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=80 << 30, used=3 << 20),
                "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=97),
                "nvmlDeviceGetName": "H100",
                "nvmlDeviceGetUUID": f"GPU-{args}",
            }.get(name)

        return call


def test_gpus_are_read_and_nvml_is_closed() -> None:
    """Memory in MiB, utilisation in percent."""
    nvml = FakeNvml(2)
    found = gpu.gpus(nvml)
    assert [(item.index, item.memory_total, item.memory_used, item.utilisation) for item in found] == [
        (0, 80 << 10, 3, 97),
        (1, 80 << 10, 3, 97),
    ]
    assert nvml.open == 0


@pytest.mark.parametrize(
    ("fail", "count"), [("nvmlInit", 0), ("nvmlDeviceGetCount", 0), ("nvmlDeviceGetUtilizationRates", 2)]
)
def test_a_failing_driver_is_no_gpu_or_no_number(fail: str, count: int) -> None:
    """MIG has no utilisation; a driver that does not answer has no GPUs."""
    assert len(gpu.gpus(FakeNvml(2, fail=fail))) == count


def test_the_real_binding_agrees() -> None:
    """Every name that the fake answers exists in nvidia-ml-py; without a driver there are no GPUs."""
    import pynvml

    for name in (
        "nvmlInit",
        "nvmlShutdown",
        "nvmlDeviceGetCount",
        "nvmlDeviceGetHandleByIndex",
        "nvmlDeviceGetMemoryInfo",
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetName",
        "nvmlDeviceGetUUID",
    ):
        assert callable(getattr(pynvml, name))
    assert gpu.count() == len(gpu.gpus())
