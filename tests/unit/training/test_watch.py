"""The one look at Slurm: its cost, its patience, its silence. Fake programs on PATH stand in for Slurm.

What the real squeue and sacct print is tested in tests/unit/slurm and tests/journeys.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from hpcpools import config
from hpcpools.config import Config
from hpcpools.runs import attempts, directory, token
from hpcpools.runs.attempts import Place
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Request, Resources
from hpcpools.runs.states import Cause, RunState
from hpcpools.runs.view import read_view
from hpcpools.slurm.command import Runner
from hpcpools.training import watch

SQUEUE = """#!{python}
import json, re, sys
from pathlib import Path
here = Path(__file__).parent
with open(here / "calls", "a") as calls:
    calls.write("squeue\\n")
if (here / "down").exists():
    print("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", file=sys.stderr)
    sys.exit(1)
fields = re.findall(r"(\\w+):(\\d+)([^,]*)", sys.argv[sys.argv.index("-O") + 1])
for job in json.loads((here / "jobs.json").read_text()):
    print("".join(str(job.get(name, "N/A")).ljust(int(width)) + mark for name, width, mark in fields))
"""

SACCT = """#!{python}
import sys
from pathlib import Path
here = Path(__file__).parent
with open(here / "calls", "a") as calls:
    calls.write("sacct\\n")
if (here / "dbd").exists():
    print("sacct: error: slurm_persist_conn_open_without_init: Connection refused", file=sys.stderr)
    sys.exit(1)
print("Slurm accounting storage is disabled", file=sys.stderr)
sys.exit(1)
"""


class FakeSlurm:
    """Programs on PATH, the jobs they list, and how often they were called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name, text in (("squeue", SQUEUE), ("sacct", SACCT)):
            (folder / name).write_text(text.replace("{python}", sys.executable))
            (folder / name).chmod(0o755)
        self.show()

    def show(self, *jobs: dict[str, str]) -> None:
        """What squeue shows from now on."""
        (self.folder / "jobs.json").write_text(json.dumps(jobs))

    def down(self, yes: bool) -> None:
        """Whether the controller refuses connections."""
        if yes:
            (self.folder / "down").write_text("")
        else:
            (self.folder / "down").unlink()

    def calls(self) -> list[str]:
        """The commands run so far."""
        file = self.folder / "calls"
        return file.read_text().split() if file.exists() else []

    @property
    def runner(self) -> Runner:
        """A runner that finds them."""
        return Runner({"PATH": str(self.folder)})


@pytest.fixture
def slurm(tmp_path: Path) -> FakeSlurm:
    """Fake Slurm."""
    return FakeSlurm(tmp_path / "bin")


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    """Patience as by default."""
    return config.parse({}, tmp_path / "hpcpools.toml", {})


def pending(settings: Config, job_id: str, age: float = 1000.0) -> RunDirectory:
    """A run that Slurm acknowledged as ``job_id``."""
    now = time.time() - age
    run = directory.create(
        settings.root, Request(token.new_token(now), now, "slurm", Resources(), command=("true",))
    )
    run.next_submission(now)
    run.submitted(0, job_id, "", now)
    run.record(RunState.PENDING, now, job_id=job_id)
    return run


def job(run: RunDirectory, job_id: str, state: str, **more: str) -> dict[str, str]:
    """A line of squeue."""
    return {"JobArrayID": job_id, "State": state, "Comment": run.token, "Name": run.token, **more}


def test_one_squeue_for_all_runs_and_none_while_it_is_fresh(slurm: FakeSlurm, settings: Config) -> None:
    """LOAD-1, LOAD-2: fifty runs, ten readers, one call."""
    runs = [pending(settings, str(number)) for number in range(50)]
    slurm.show(*(job(run, str(number), "RUNNING") for number, run in enumerate(runs)))
    for _ in range(10):
        seen = watch.refresh(settings, slurm.runner, max_age=30)
    assert slurm.calls() == ["squeue"]
    assert {view.state for view in seen.views} == {RunState.RUNNING}
    assert seen.as_of is not None
    assert all(view.as_of == seen.as_of for view in seen.views)


def test_silence_changes_nothing_and_backs_off(slurm: FakeSlurm, settings: Config) -> None:
    """LOAD-4, REL-12: the controller is down; states stay, calls get rarer, the error is told."""
    run = pending(settings, "7")
    slurm.show(job(run, "7", "RUNNING"))
    now = time.time()
    first = watch.refresh(settings, slurm.runner, max_age=0, now=now)
    slurm.down(True)
    for second in range(1, 601):  # ten minutes of a reader each second
        seen = watch.refresh(settings, slurm.runner, max_age=0, now=now + second)
    assert len(slurm.calls()) <= 9
    assert [view.state for view in seen.views] == [RunState.RUNNING]
    assert "Unable to contact" in seen.error
    assert seen.as_of == first.as_of
    slurm.down(False)
    seen = watch.refresh(settings, slurm.runner, max_age=0, now=now + 2000)
    assert seen.error == ""


def test_a_vanished_job_is_lost_after_patience(slurm: FakeSlurm, settings: Config) -> None:
    """REL-13: squeue answers without it, sacct is disabled: LOST after two minutes, not before."""
    run = pending(settings, "7")
    now = time.time()
    clock = [now]
    runner = Runner({"PATH": str(slurm.folder)}, clock=lambda: clock[0])
    for moment, expected in (
        (now, RunState.PENDING),
        (now + 60, RunState.PENDING),
        (now + 130, RunState.LOST),
    ):
        clock[0] = moment
        watch.refresh(settings, runner, max_age=0, now=moment)
        assert read_view(run).state is expected
    assert read_view(run).cause.retryable
    assert slurm.calls().count("sacct") <= 3


def test_silent_accounting_is_no_absence(slurm: FakeSlurm, settings: Config) -> None:
    """slurmdbd is down: the run is neither lost nor failed, however long; sacct is asked once a minute."""
    run = pending(settings, "7")
    (slurm.folder / "dbd").write_text("")
    now = time.time()
    clock = [now]
    runner = Runner({"PATH": str(slurm.folder)}, clock=lambda: clock[0])
    for minutes in range(0, 30):
        clock[0] = now + 30 * minutes
        watch.refresh(settings, runner, max_age=0, now=clock[0])
    assert read_view(run).state is RunState.PENDING
    assert slurm.calls().count("sacct") <= 16


def test_a_reused_job_id_is_not_ours(slurm: FakeSlurm, settings: Config) -> None:
    """REL-18: the id is listed, but for somebody else's token."""
    run, other = pending(settings, "7"), pending(settings, "8")
    slurm.show(job(other, "7", "FAILED"), job(other, "8", "RUNNING"))
    watch.refresh(settings, slurm.runner, max_age=0)
    assert read_view(run).state is RunState.PENDING
    assert read_view(other).state is RunState.RUNNING


def test_an_unacknowledged_job_is_adopted(slurm: FakeSlurm, settings: Config) -> None:
    """The command line died after sbatch: the token in the queue tells the job's id."""
    now = time.time()
    run = directory.create(
        settings.root, Request(token.new_token(now), now, "slurm", Resources(), command=("true",))
    )
    run.next_submission(now)
    slurm.show(job(run, "42", "PENDING", Reason="Resources"))
    watch.refresh(settings, slurm.runner, max_age=0)
    view = read_view(run)
    assert (view.state, view.job_id, view.reason) == (RunState.PENDING, "42", "Resources")


def test_the_end_marker_needs_no_call(slurm: FakeSlurm, settings: Config) -> None:
    """Files only: no runner, and still COMPLETED."""
    run = pending(settings, "7")
    folder = attempts.claim(run, 0, Place("lab", "7", 0, "n1", 1, 1, "boot"), time.time())
    assert folder is not None
    attempts.end(folder, "failed", time.time(), exit_code=3, cause=Cause.USER_ERROR, error="x\nBoom: y")
    seen = watch.refresh(settings, None, max_age=0)
    assert slurm.calls() == []
    assert [view.state for view in seen.ended] == [RunState.FAILED]
    view = read_view(run)
    assert (view.exit_code, view.reason, view.cause) == (3, "Boom: y", Cause.USER_ERROR)
    assert directory.live_tokens(settings.root) == []


def test_a_damaged_cache_is_no_obstacle(slurm: FakeSlurm, settings: Config) -> None:
    """The poll cache is a convenience."""
    run = pending(settings, "7")
    (settings.root / ".poll.json").write_text("{half")
    slurm.show(job(run, "7", "RUNNING"))
    watch.refresh(settings, slurm.runner, max_age=0)
    assert read_view(run).state is RunState.RUNNING
