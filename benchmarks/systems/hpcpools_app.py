"""hpcpools through its public face: a project with a configuration, `hpcpools worker`, `enqueue`."""

from __future__ import annotations

from pathlib import Path

import hpcpools
from benchmarks.systems import WORKERS, socket_path
from hpcpools import config

FILE = """
[project]
modules = ["{tasks}"]
[short]
workers = {workers}
{settings}
[redis]
url = "unix://{socket}"
[services]
runtime_dir = "run"
autostart = false
"""


def write_project(folder: Path, tasks: str, settings: str) -> None:
    """The configuration of one round; ``tasks``: such as ``plain``; ``settings``: lines for ``[short]``."""
    module = f"benchmarks.systems.hpcpools_{tasks}"
    text = FILE.format(tasks=module, workers=WORKERS, settings=settings, socket=folder / "r.sock")
    (folder / "hpcpools.toml").write_text(text)


def _client() -> tuple[config.Config, str]:
    """The configuration and the task, found once."""
    if not _known:
        found = config.load(Path(socket_path()).with_name("hpcpools.toml"))
        _known.append((found, f"{found.project.modules[0]}:noop"))
    return _known[0]


_known: list[tuple[config.Config, str]] = []


def enqueue(number: int) -> None:
    """One task."""
    settings, task = _client()
    hpcpools.enqueue(task, number=number, config=settings)


def enqueue_many(numbers: range) -> None:
    """Many in one round trip."""
    settings, task = _client()
    hpcpools.enqueue_many(task, [{"number": number} for number in numbers], config=settings)
