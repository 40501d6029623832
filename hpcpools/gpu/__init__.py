"""GPUs: what this machine has, what NVML says of their health, and what that means.

``nvml`` is the only importer of pynvml; ``reading`` asks, ``checks`` judges (pure), ``probe`` bounds.
"""

from __future__ import annotations

from hpcpools.gpu.nvml import Gpu, count, gpus

__all__ = ["Gpu", "count", "gpus"]
