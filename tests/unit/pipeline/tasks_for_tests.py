"""The tasks of a pretended project; what they do is written to files that the test names."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from hpcpools import Run, task, training


def note(log: str, text: str) -> None:
    """One line, whoever writes at the same time."""
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(fd, f"{text}\n".encode())
    os.close(fd)


@task(queue="preprocessing")
def prepare() -> dict[str, Any]:
    return {"path": "/data"}


@training(gpus=0)
def fit(run: Run, data: str, lr: float, seed: int = 0) -> dict[str, Any]:
    return {"data": data, "lr": lr, "seed": seed, "run": run.token}


@training(gpus=0)
def plain(run: Run) -> None:
    """Never run here."""


@task(queue="evaluation")
def report(found: Any = None) -> Any:
    return found


@task(queue="evaluation", timeout="1m")
def evaluate(checkpoint: str, step: int) -> dict[str, Any]:
    """Counts itself in a file beside the project."""
    folder = Path(checkpoint)
    note(str(folder.parents[3] / "evaluated"), f"{step} {(folder / 'state').read_text()}")
    time.sleep(0.02)
    if step == 13:
        raise ValueError("an unlucky step")
    return {"step": step}


@task
def slowly(log: str) -> str:
    """Says when it begins and ends, and waits for leave between."""
    note(log, f"begin {os.getpid()}")
    while not Path(f"{log}.go").exists():
        time.sleep(0.02)
    note(log, f"end {os.getpid()}")
    return "slow"


@task
def fails(log: str) -> None:
    note(log, "failed")
    raise ValueError("made of cheese")
