"""Slurm's load over all processes: one line per call, no lock, junk ignored, never longer than allowed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpcpools import config as configuration
from hpcpools.errors import SlurmUnavailableError
from hpcpools.slurm import ledger
from hpcpools.slurm.command import Runner
from hpcpools.training import engine

NOTE = "import sys; from pathlib import Path; from hpcpools.slurm import ledger\n"
NOTE += (
    "for n in range(500): ledger.note(Path(sys.argv[1]), 'squeue', 0.01 * (n % 2) + 0.2, failed=n % 5 == 0)"
)


def test_calls_of_many_processes_add_up(tmp_path: Path) -> None:
    """Four processes at once, 500 calls each: none is lost, no line is torn."""
    file = tmp_path / ledger.NAME
    writers = [subprocess.Popen([sys.executable, "-c", NOTE, str(file)]) for _ in range(4)]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    found = ledger.read(file)["squeue"]
    assert (sum(found.counts), found.failed) == (2000, 400)
    assert found.counts[ledger.BOUNDS.index(0.25)] == 2000
    assert found.total == pytest.approx(2000 * 0.205)
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_runner_notes_its_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Good and bad ones, with their length; `--version` asks Slurm nothing; no folder, no note."""
    for name, lines in (
        ("squeue", "exit 0"),
        ("sbatch", "exit 0"),
        ("srun", ""),
        ("sacct", "sleep 0.3; exit 1"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\nPATH={os.defpath}\n{lines}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    config = configuration.parse_text('[services]\nruntime_dir = "rt"\n', tmp_path / "hpcpools.toml")
    runner = engine.runner(config)
    runner.run(["squeue"])
    assert ledger.read(config.runtime_dir / ledger.NAME) == {}
    config.runtime_dir.mkdir(mode=0o700)
    assert runner.available()
    runner.run([str(tmp_path / "squeue")])
    with pytest.raises(SlurmUnavailableError):
        runner.run(["sacct"])
    found = ledger.read(config.runtime_dir / ledger.NAME)
    assert {name: (sum(load.counts), load.failed) for name, load in found.items()} == {
        "squeue": (1, 0),
        "sacct": (1, 1),
    }
    assert found["sacct"].total >= 0.3
    assert not Runner({}).calls  # a runner without a record keeps its own count alone


def test_junk_and_length(tmp_path: Path) -> None:
    """What is no line of ours is left out, a symlink is not followed, a long file begins anew."""
    file = tmp_path / ledger.NAME
    file.write_bytes(b"squeue 0.100 0\n\xff\xfe\nsqueue x 0\nSQUEUE 1.000 0\nsqueue 1.000 2\n" + b"s" * 99)
    assert sum(ledger.read(file)["squeue"].counts) == 1
    file.write_bytes(b"squeue 0.100 0\n" * (ledger.LONGEST // 15 + 1))
    ledger.note(file, "squeue", 0.1, failed=False)
    assert not file.exists()
    ledger.note(file, "squeue", 0.1, failed=False)
    assert sum(ledger.read(file)["squeue"].counts) == 1
    target = tmp_path / "target"
    target.touch()
    link = tmp_path / "link"
    link.symlink_to(target)
    ledger.note(link, "squeue", 0.1, failed=False)
    assert target.read_bytes() == b""
