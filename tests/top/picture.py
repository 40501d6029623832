"""Draws docs/images/top.svg: `python -m tests.top.picture FILE`, from a real pool with planted trainings."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

from hpcpools import config
from hpcpools.runs.directory import live_tokens
from hpcpools.runs.states import RunState
from hpcpools.top.app import Top
from tests.conftest import state_home
from tests.project import Project
from tests.top.scene import plant

RUNS = (
    ("digits-baseline", RunState.COMPLETED, 90000.0),
    ("resnet50-sgd", RunState.COMPLETED, 40000.0),
    ("vit-small", RunState.FAILED, 30011.0),
    ("resnet50-adam", RunState.COMPLETED, 20023.0),
    ("resnet50-lamb", RunState.TIMEOUT, 10007.0),
    ("llama-finetune", RunState.RUNNING, 7260.0),
    ("llama-finetune-2", RunState.RUNNING, 5431.0),
    ("distill-tiny", RunState.PENDING, 610.0),
    ("distill-base", RunState.PENDING, 300.0),
)


def main(file: Path) -> None:
    """Start services, plant, look, draw, stop."""
    with tempfile.TemporaryDirectory() as folder, state_home() as state:
        programs = Path(folder) / "bin"
        programs.mkdir()
        for name in ("sbatch", "srun", "squeue"):  # looked for, never asked: the last answer is new
            (programs / name).symlink_to("/bin/true")
        os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"
        project = Project(
            Path(folder) / "project", {"XDG_STATE_HOME": state}, '[training]\nengine = "slurm"\n'
        )
        try:
            project.cli("up")
            for number in range(6):
                project.cli("enqueue", "usertasks:evaluate" if number else "usertasks:broken")
            for label, in_state, age in RUNS:
                plant(project.root, label, in_state, age=age)
            answer = {
                "at": time.time(),
                "interval": 600.0,
                "listed": dict.fromkeys(live_tokens(project.root), ""),
            }
            (project.root / ".poll.json").write_text(json.dumps(answer))
            os.environ["XDG_STATE_HOME"] = state
            asyncio.run(_draw(config.load(project.folder / "hpcpools.toml"), file))
        finally:
            if project.root.is_dir():
                project.root.rename(project.folder / "planted")  # none of them is a real job
            project.close()


async def _draw(pool: config.Config, file: Path) -> None:
    app = Top(pool)
    async with app.run_test(size=(120, 34)) as pilot:
        for _ in range(100):
            await pilot.pause(0.1)
            if app.facts.at and app._table().row_count:
                break
        await pilot.press("down", "down")
        await pilot.pause(1.0)
        drawn = app.export_screenshot(title="hpcpools top")
    file.write_text(re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL))  # nothing from elsewhere


if __name__ == "__main__":
    main(Path(sys.argv[1]))
