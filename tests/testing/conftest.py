"""A fake cluster for the tests of the fake itself, and its commands called in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hpcpools.testing import FakeSlurm, commands

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(
    fake_slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """``call("squeue", "-h")``: exit code, stdout, stderr of one command, without a process of its own."""
    monkeypatch.chdir(tmp_path)

    def one(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = commands.main([str(fake_slurm.folder), *words])
        out, err = capsys.readouterr()
        return code, out, err

    return one


@pytest.fixture
def submit(call: Call, tmp_path: Path) -> Callable[..., str]:
    """sbatch of a script of these lines; the job id."""

    def one(*options: str, script: str = "true") -> str:
        path = tmp_path / "job.sh"
        path.write_text(f"#!/bin/bash\n{script}\n")
        code, out, err = call("sbatch", "--parsable", *options, str(path))
        assert code == 0, err
        return out.strip()

    return one
