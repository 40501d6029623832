"""What is installed, against what this version of hpcpools was built for."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata

import hpcpools
from hpcpools.doctor.finding import Finding, fail, ok, warn

# package → (least, first that is untested); the bounds of pyproject.toml
BOUNDS = {
    "rq": ("3.0", "4"),
    "rq-scheduler": ("0.14", "0.15"),
    "redis": ("6", "9"),
    "submitit": ("1.5.3", "2"),
    "click": ("8.2", ""),
    "nvidia-ml-py": ("12.560", ""),
}
TORCH = "2.10"  # the first whose weights_only loading has no known hole (CVE-2026-24747)


def check() -> Iterator[Finding]:
    """Python, hpcpools and the packages it stands on."""
    found = {name: version for name in (*BOUNDS, "torch") if (version := _version(name))}
    yield ok("versions", f"hpcpools {hpcpools.__version__} on Python {sys.version.split()[0]}")
    yield from judge(found)


def judge(found: Mapping[str, str]) -> Iterator[Finding]:
    """Findings from package → version. Pure."""
    good = []
    for name, (least, beyond) in BOUNDS.items():
        version = found.get(name, "")
        if not version:
            yield fail("versions", f"{name} is not installed", "`pip install hpcpools` again")
        elif _key(version) < _key(least):
            yield fail("versions", f"{name} {version} is too old", f"pip install '{name}>={least}'")
        elif beyond and _key(version) >= _key(beyond):
            yield warn("versions", f"{name} {version} is not tested", f"pip install '{name}<{beyond}'")
        else:
            good.append(f"{name} {version}")
    if (torch := found.get("torch")) and _key(torch) < _key(TORCH):
        text = f"torch {torch}: loading a checkpoint may run what is in it"
        yield fail("versions", text, f"pip install 'torch>={TORCH}'")
    elif torch:
        good.append(f"torch {torch}")
    yield ok("versions", ", ".join(good))


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])
