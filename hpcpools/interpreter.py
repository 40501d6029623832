"""How a Python process of our own is started: this interpreter, and never importing from where it runs."""

from __future__ import annotations

import sys
from pathlib import Path

HAS_SAFE_PATH = sys.version_info >= (3, 11)  # ``-P``


def argv(module: str, *words: str, unbuffered: bool = False) -> list[str]:
    """The words of ``python -m module …``, where a file in the job's folder must not take the place of a
    module (SEC-13)."""
    flags = ["-u"] if unbuffered else []
    how = ["-P", "-m"] if HAS_SAFE_PATH else [str(Path(__file__).with_name("safepath.py"))]
    return [sys.executable, *flags, *how, module, *words]
