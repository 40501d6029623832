"""How a Python process of our own is started: this interpreter, and never importing from where it runs."""

from __future__ import annotations

import sys


def argv(module: str, *words: str, unbuffered: bool = False) -> list[str]:
    """The words of ``python -m module …``. ``-P`` (Python 3.11): a file in the job's folder must not take
    the place of a module (SEC-13)."""
    flags = [*(["-u"] if unbuffered else []), *(["-P"] if sys.version_info >= (3, 11) else [])]
    return [sys.executable, *flags, "-m", module, *words]
