"""hpcpools.slurm without Slurm: real captured answers, and small programs in place of the commands."""

from __future__ import annotations

from pathlib import Path

DATA = Path(__file__).parent / "data"
SEPARATOR = "<~0123456789abcdef>"  # the one that the captured answers were asked with


def captured(name: str) -> str:
    """A captured answer, byte for byte (text mode would change the carriage returns in it)."""
    return (DATA / name).read_bytes().decode()
