"""The NVIDIA kernel driver's version, from /proc: it answers even where NVML hangs."""

from __future__ import annotations

import re
from pathlib import Path

_VERSION = re.compile(r"NVRM version:.*?\s(\d{3,}(?:\.\d+){1,2})\s")


def version(file: Path = Path("/proc/driver/nvidia/version")) -> str:
    """Such as ``570.124.06``; "" where there is no driver."""
    try:
        found = _VERSION.search(file.read_text(errors="replace"))
    except OSError:
        return ""
    return found.group(1) if found else ""
