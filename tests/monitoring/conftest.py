"""One pool with everything that can be measured, for all tests that only read it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from hpcpools import atomic
from hpcpools import config as configuration
from hpcpools.redisdb.connect import connect
from hpcpools.runs import directory, telemetry
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Request, Resources
from hpcpools.runs.states import Cause, RunState
from hpcpools.runs.token import new_token
from hpcpools.short.tally import Tally
from hpcpools.slurm import ledger
from hpcpools.training.watch import Poll
from tests.conftest import state_home
from tests.project import Project
from tests.short.lab import Lab

SETTINGS = """
[short]
workers = 2
[lane]
partition = "cpu"
[exporter]
enabled = true
[services]
runtime_dir = "{runtime}"
[schedule.advance_pipelines]
task = "hpcpools.maintenance:advance_pipelines"
every = "1s"
"""


class Pool:
    """A project whose services run, with short jobs, trainings and calls of Slurm behind it."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.config = configuration.load(project.folder / "hpcpools.toml")
        self.socket = self.config.runtime_dir / "exporter.sock"
        project.cli("up")

    def fill(self) -> None:
        """Something of everything. What takes hours, or a Slurm, is written as whoever did it would have."""
        names = ("usertasks:evaluate", "usertasks:broken")
        jobs = [self.project.cli("enqueue", name).stdout.strip() for name in names]
        self.project.cli("wait", *jobs, check=False)
        tally = Tally(1, names, self.config.queues)
        tally.waited(0, "evaluation", 0.2)
        tally.ran(0, names[0], 2.0)
        tally.ran(0, names[1], 0.01, cause="raised")
        with connect(self.config) as connection:
            tally.bring(connection)
        self._train()
        for seconds in (0.02, 0.3, 4.0):
            ledger.note(self.config.runtime_dir / ledger.NAME, "squeue", seconds, failed=seconds > 1)
        poll = Poll(at=time.time() - 20, interval=30.0, listed={"hp-x": "None"})
        atomic.write_json(self.config.root / ".poll.json", structs.asdict(poll))
        self.project.cli("upkeep", "update_job_metrics")

    def _train(self) -> None:
        """One run that lost its nodes and then made no progress, one that idles, one that waits."""
        now = time.time()
        ended = self._submit(now - 7200, gpus=4)
        first = _start(ended, "0.0", now - 7100)
        atomic.write_json(first / "end.json", {"outcome": "killed", "at": now - 3500})
        telemetry.append(first, now - 3500, 7200.0, 1, "", [])
        ended.next_submission(now - 3400, kind="node_failure")
        _start(ended, "1.0", now - 3300)
        ended.record(RunState.FAILED, now - 1500, cause=Cause.NODE_FAILURE.value, breaker=True, of=1)
        idle = self._submit(now - 900, gpus=2)
        samples = [{"gpu": "0", "util": 80}, {"gpu": "1", "util": 40}]
        telemetry.append(_start(idle, "0.0", now - 600), now, 300.0, 5, "idle", samples)
        self._submit(now - 60, gpus=1)

    def _submit(self, at: float, gpus: int) -> RunDirectory:
        request = Request(new_token(at), at, "slurm", Resources(gpus=gpus), command=("true",))
        run = directory.create(self.config.root, request)
        run.next_submission(at)
        run.submitted(0, "7", "", at)
        run.record(RunState.PENDING, at, job_id="7")
        return run


def _start(run: RunDirectory, name: str, at: float) -> Path:
    """What the node writes when it starts; the attempt's folder."""
    folder = run.attempts / name
    folder.mkdir()
    atomic.write_json(folder / "start.json", {"at": at, "job_id": "7"})
    return folder


@pytest.fixture(scope="package")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """See :class:`Pool`; on a machine with no Slurm on PATH."""
    programs = tmp_path_factory.mktemp("bin")
    for name in ("sh", "env", "redis-server"):
        if found := shutil.which(name):
            (programs / name).symlink_to(found)
    with state_home() as state:
        env = {"PATH": str(programs), "XDG_STATE_HOME": state}
        folder = tmp_path_factory.mktemp("pool")
        project = Project(folder, env, SETTINGS.format(runtime=f"{state}/rt"))
        try:
            pool = Pool(project)
            pool.fill()
            yield pool
        finally:
            project.cli("down")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A Redis of its own, for what is planted in it."""
    lab = Lab(tmp_path)
    try:
        yield lab
    finally:
        lab.stop()
