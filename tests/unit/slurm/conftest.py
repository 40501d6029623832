"""A PATH of small shell programs that stand for Slurm's commands."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcpools.slurm.command import Runner

Fake = Callable[..., Runner]


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    """``fake(sbatch="exit 1", ...)``: a Runner whose commands are these shell lines, and nothing else."""
    programs = tmp_path / "bin"
    programs.mkdir()

    def make(*, timeout: float = 20.0, **commands: str) -> Runner:
        for name, lines in commands.items():
            program = programs / name
            program.write_text(f"#!/bin/sh\nPATH={os.defpath}\n{lines}\n")
            program.chmod(0o755)
        return Runner({"PATH": str(programs), "WORK": str(tmp_path)}, timeout=timeout, clock=lambda: 1000.0)

    return make
