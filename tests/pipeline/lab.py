"""The short pool's lab with the tasks of a pipeline, and processes that scan or advance in a loop."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hpcpools import config as configuration
from hpcpools.pipeline import advance, definition
from hpcpools.pipeline.record import PipelineRecord
from hpcpools.runs import directory
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Request, Resources
from hpcpools.runs.token import new_token
from tests.short.lab import ROOT, Lab

TASKS = "tests.unit.pipeline.tasks_for_tests"
SETTINGS = """
[project]
modules = ["{tasks}"]
[training]
engine = "local"
[short]
workers = 2
[redis]
url = "unix://{socket}"
[services]
runtime_dir = "run"
[continuous_evaluation]
"{tasks}:fit" = "{tasks}:evaluate"
"""
POOL = """
import sys
from pathlib import Path
from hpcpools import config
from hpcpools.short import pool
found = config.load(Path(sys.argv[1]))
config.activate(found)
sys.exit(pool.run(found))
"""
LOOP = """
import sys
from pathlib import Path
from hpcpools import config
from hpcpools.pipeline import advance, evaluate
from hpcpools.pipeline.record import PipelineRecord, live_ids
found = config.load(Path(sys.argv[1]))
while True:
    if sys.argv[2] == "scan":
        evaluate.scan(found)
    else:
        advance.advance_all(found)
"""


class PipelineLab(Lab):
    """``config`` names the pipeline's tasks; ``loop()`` starts a process that scans without a pause."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        text = SETTINGS.format(tasks=TASKS, socket=self.socket)
        file = folder / "hpcpools.toml"
        file.write_text(text)
        self.config = configuration.parse_text(text, file)

    def start_pool(self, *words: str, workers: int | None = None) -> subprocess.Popen[bytes]:
        """A pool whose tasks find this configuration, as under `hpcpools up`."""
        with (self.folder / "pool.log").open("ab") as out:
            pool = subprocess.Popen(
                [sys.executable, "-c", POOL, self.config.file], cwd=ROOT, stdout=out, stderr=out
            )
        self._processes.append(pool)
        return pool

    def loop(self, what: str) -> subprocess.Popen[bytes]:
        """A process that does ``scan`` or ``advance`` over and over, until it is killed."""
        process = subprocess.Popen([sys.executable, "-c", LOOP, self.config.file, what], cwd=ROOT)
        self._processes.append(process)
        return process

    def run(self) -> RunDirectory:
        """A training's directory; nobody trains."""
        now = time.time()
        request = Request(new_token(now), now, "local", Resources(), target=f"{TASKS}:fit", host="elsewhere")
        return directory.create(self.config.root, request)

    def start(self, stages: dict[str, Any]) -> PipelineRecord:
        """Start a pipeline; ``task`` without its module."""
        full = {name: {**stage, "task": f"{TASKS}:{stage['task']}"} for name, stage in stages.items()}
        return advance.start(self.config, definition.parse({"stages": full}, "test"), "test")

    def states(self, record: PipelineRecord) -> dict[str, str]:
        """Each stage's state after one more advance."""
        seen = advance.advance(self.config, record)
        return {name: standing.state.value for name, standing in seen.standings.items()}
