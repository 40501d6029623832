"""A fan-out stage whose sender is killed at every single write: one array, every run in it, nothing twice."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcpools import atomic
from hpcpools import config as configuration
from hpcpools.config import Config
from hpcpools.errors import SlurmRefusedError, SlurmUnavailableError
from hpcpools.pipeline import advance, stageruns
from hpcpools.pipeline import record as recording
from hpcpools.pipeline.definition import parse
from hpcpools.pipeline.record import PipelineRecord
from hpcpools.runs import directory
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.states import Cause, RunState
from hpcpools.runs.sweeps import Array, SweepDirectory
from hpcpools.runs.view import read_view
from hpcpools.training import arrays, engine
from hpcpools.training.executors import ArrayExecutor
from hpcpools.training.submit import Found

TASKS = "tests.unit.pipeline.tasks_for_tests"
SETTINGS = f"""
[project]
modules = ["{TASKS}"]
[training]
engine = "{{engine}}"
gpus = 0
[snapshot]
enabled = false
[slurm]
command_timeout = 1
"""


class Slurm:
    """A Slurm that takes every array and remembers its key in a file; ``lines()``: what it was given."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "sbatch.log"
        self.error: type[Exception] | None = None

    @staticmethod
    def before() -> None:
        """Called before sbatch."""

    def take(self, executor: ArrayExecutor) -> str:
        """Stands for ``ArrayExecutor.send``."""
        if self.error is not None:
            raise self.error("the site says no")
        self.before()
        with self.log.open("a") as file:
            file.write(executor._array.key + "\n")
        return str(100 + len(self.lines()))

    def lines(self) -> list[str]:
        """The keys of all arrays it has."""
        return self.log.read_text().split() if self.log.exists() else []

    def find(self, _runner: object, array: Array, *, history: bool = True) -> Found:
        """Stands for ``arrays.look_up``."""
        del history
        keys = self.lines()
        return Found(str(101 + keys.index(array.key)) if array.key in keys else "", certain=True)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    """In place of sbatch, squeue and scontrol; time enough has always passed."""
    made = Slurm(tmp_path)
    monkeypatch.setattr(ArrayExecutor, "send", lambda self: made.take(self))  # noqa: PLW0108 - a method
    monkeypatch.setattr(arrays, "look_up", made.find)
    monkeypatch.setattr(arrays, "layout", lambda _config, count, parallel: [(count, parallel or count)])
    monkeypatch.setattr(engine, "choose", lambda config, _on="auto": config.training.engine)
    monkeypatch.setattr(SweepDirectory, "last_look", lambda _self, _number: 0.0)
    monkeypatch.setattr("hpcpools.training.environment.here", lambda _config, _workdir: {"at": 0.0})
    monkeypatch.setattr("hpcpools.training.submit.take_turn", lambda _config, _note: None)
    monkeypatch.setattr("hpcpools.slurm.submit.scancel", lambda _runner, _ids: None)
    return made


def pipeline(folder: Path, where: str) -> tuple[Config, PipelineRecord]:
    """A pipeline of one fan-out stage, on record; nothing is submitted."""
    folder.mkdir()
    file = folder / "hpcpools.toml"
    file.write_text(SETTINGS.format(engine=where))
    config = configuration.load(file)
    stage = {"task": f"{TASKS}:fit", "arguments": {"data": "d", "lr": 0.1}, "sweep": {"seed": [1, 2, 3]}}
    asked = parse({"stages": {"fit": {**stage, "max_parallel": 2}}}, "test")
    return config, recording.create(config.root, asked, "test", {"fit": "training"})


def killed_at(write: int, act: Callable[[], object]) -> bool:
    """Do it in a process that dies before its ``write``-th durable write or sbatch; False if it came to its
    end."""
    pid = os.fork()
    if pid == 0:
        left = write
        written, append = atomic._written, atomic.append_line

        def count() -> None:
            nonlocal left
            left -= 1
            if left <= 0:
                os._exit(9)

        def dying(path: Path, data: bytes, mode: int) -> object:
            count()
            return written(path, data, mode)

        def dying_append(path: Path, value: object) -> None:
            count()
            append(path, value)

        atomic._written = dying  # type: ignore[assignment]
        atomic.append_line = dying_append
        Slurm.before = staticmethod(count)  # type: ignore[method-assign]
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 9)
    return code == 9


def give_up(config: Config) -> None:
    """What upkeep does with runs that nobody has sent for minutes; it may come before the pipeline does."""
    now = time.time()
    for token in directory.live_tokens(config.root):
        run = RunDirectory(config.root, token)
        if not run.run_file.exists() or read_view(run).state is not RunState.SUBMITTING:
            continue
        if SweepDirectory(config.root, run.request().sweep).array_of(token, 0):
            arrays.settle_old(config, engine.runner(config), run, now)
        else:
            run.record(RunState.FAILED, now, cause=Cause.BAD_SUBMISSION.value)


def go_on(config: Config, record: PipelineRecord) -> None:
    """What the next process does, until all runs are with their pool."""
    deadline = time.monotonic() + 20
    while not list(record.path.glob("*.sent.json")):
        assert time.monotonic() < deadline
        try:
            advance.advance(config, record)
        except SlurmUnavailableError:
            raise
        except Exception as error:
            assert "whether Slurm has" in str(error), error
            time.sleep(0.1)


def runs_of(record: PipelineRecord, number: int = 1) -> list[RunDirectory]:
    """The stage's runs."""
    return [RunDirectory(record.root, token) for token in stageruns.tokens(record.submit_file("fit", number))]


def check_carried(record: PipelineRecord, slurm: Slurm, submissions: list[int]) -> None:
    """Slurm has each run's newest submission once, in arrays that are on record.

    What was certainly never sent, or given up by upkeep, is sent as the next submission of its run.
    """
    place = SweepDirectory(record.root, stageruns.sweep_id(record.submit_file("fit", 1)))
    sent = [place.array(int(key.partition(".")[2])) for key in slurm.lines()]
    elements = [(one.token, one.submission) for array in sent if array for one in array.elements]
    assert len(elements) == len(set(elements))
    runs = runs_of(record)
    found = [run.last_submission() for run in runs]
    for number, wanted in zip(found, submissions, strict=True):
        assert number in (wanted, wanted + (wanted == max(submissions)))
    assert {(run.token, run.last_submission()) for run in runs} <= set(elements)
    for run in runs:  # with an id on record, the next look at the queue does the rest
        state = read_view(run).state
        assert state in (RunState.PENDING, RunState.COMPLETED) or run.job(run.last_submission())


def test_killed_at_every_write_there_is_one_array(tmp_path: Path, slurm: Slurm) -> None:
    """Until it was not killed any more; then all were killed points of a whole submission."""
    for write in range(1, 200):
        slurm.log.unlink(missing_ok=True)
        config, record = pipeline(tmp_path / f"{write}", "slurm")
        died = killed_at(write, lambda config=config, record=record: advance.advance(config, record))  # type: ignore[misc]
        if write % 2:
            give_up(config)
        go_on(config, record)
        assert len(slurm.lines()) == 1, f"killed before write {write}"
        check_carried(record, slurm, [0, 0, 0])
        assert len(directory.tokens(config.root)) == 3
        if not died:
            break
    assert write > 25


@pytest.mark.parametrize("where", ["slurm", "local"])
def test_killed_at_the_writes_of_a_retry(tmp_path: Path, slurm: Slurm, where: str) -> None:
    """The second and the third run failed: they, and only they, go into one more array, or wait again."""
    for write in range(1, 200, 2):
        slurm.log.unlink(missing_ok=True)
        config, record = pipeline(tmp_path / f"{write}", where)
        advance.advance(config, record)
        first, *bad = runs_of(record)
        atomic.write_json(first.result_file, {"score": 1})
        first.record(RunState.COMPLETED, time.time())
        for run in bad:
            number = run.last_submission() if where == "slurm" else run.next_submission(time.time())
            run.record(RunState.FAILED, time.time(), cause="user error", of=number)
        assert advance.advance(config, record).standings["fit"].state.value == "FAILED"
        died = killed_at(write, lambda config=config, record=record: advance.retry(config, record))  # type: ignore[misc]
        for marker in record.path.glob(f"{stageruns.sweep_id(record.submit_file('fit', 1))}.sent.json"):
            marker.unlink()  # only so that `go_on` waits for the second try's
        if not list(record.path.glob("wish.0.json")):
            continue  # it died before anything was asked for
        go_on(config, record)
        if where == "slurm":
            assert len(slurm.lines()) == 2, f"killed before write {write}"
            check_carried(record, slurm, [0, 1, 1])
        assert [run.is_live() for run in (first, *bad)] == [False, True, True]
        for run in bad:
            atomic.write_json(run.result_file, {"score": 2})
            run.record(RunState.COMPLETED, time.time())
        assert advance.advance(config, record).state == "COMPLETED"
        assert advance.result(record, "fit") == [{"score": 1}, {"score": 2}, {"score": 2}]
        if not died:
            break
    assert write > 10


def test_killed_at_every_write_without_slurm(tmp_path: Path, slurm: Slurm) -> None:
    """All wait for the slot; nothing goes to Slurm."""
    for write in range(1, 200):
        config, record = pipeline(tmp_path / f"{write}", "local")
        died = killed_at(write, lambda config=config, record=record: advance.advance(config, record))  # type: ignore[misc]
        go_on(config, record)
        assert [read_view(run).state for run in runs_of(record)] == [RunState.PENDING] * 3
        assert len(directory.tokens(config.root)) == 3
        if not died:
            break
    assert slurm.lines() == []


def test_cancelled_wherever_its_sender_died(tmp_path: Path, slurm: Slurm) -> None:
    """Nothing is sent after the cancel; what Slurm has already is ended."""
    for write in range(1, 200, 3):
        slurm.log.unlink(missing_ok=True)
        config, record = pipeline(tmp_path / f"{write}", "slurm")
        died = killed_at(write, lambda config=config, record=record: advance.advance(config, record))  # type: ignore[misc]
        had = slurm.lines()
        advance.cancel(config, record)
        if record.submit_file("fit", 1).exists():
            go_on(config, record)
            assert slurm.lines() == had
            for run in runs_of(record):
                if run.run_file.exists():
                    assert run.cancelled()
                    run.record(RunState.CANCELLED, time.time())
        assert advance.advance(config, record).state == "CANCELLED"
        if not died:
            break


def test_slurm_s_answers(tmp_path: Path, slurm: Slurm) -> None:
    """Not there: later, the same runs. A refusal: the stage failed, and a retry sends them."""
    config, record = pipeline(tmp_path / "p", "slurm")
    slurm.error = SlurmUnavailableError
    with pytest.raises(SlurmUnavailableError):
        advance.advance(config, record)
    slurm.error = SlurmRefusedError
    seen = advance.advance(config, record)
    assert (seen.state, seen.standings["fit"].state.value) == ("FAILED", "FAILED")
    assert "the site says no" in seen.standings["fit"].why
    slurm.error = None
    advance.retry(config, record)
    assert len(slurm.lines()) == 1
    assert [read_view(run).state for run in runs_of(record, 2)] == [RunState.PENDING] * 3
    assert len(directory.tokens(config.root)) == 3


def test_a_living_sender_is_not_disturbed(tmp_path: Path, slurm: Slurm) -> None:
    """Another process that has the claim, and lives, goes on alone."""
    config, record = pipeline(tmp_path / "p", "slurm")
    slurm.error = SlurmUnavailableError
    with pytest.raises(SlurmUnavailableError):
        advance.advance(config, record)
    slurm.error = None
    (key,) = {path.name.partition(".")[0] for path in record.path.glob("hs-*.claim.*.json")}
    parent = os.getppid()
    start = int(Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19])
    number, newest = record._newest_claim(key)
    assert newest == {"released": True}
    mine = atomic.read_json(record.path / f"{key}.claim.0.json") or {}
    other = {**mine, "pid": parent, "pid_start": start}
    atomic.create_json(record.path / f"{key}.claim.{number + 1}.json", other)
    advance.advance(config, record)
    assert slurm.lines() == []
    record.release(key)
    advance.advance(config, record)
    assert len(slurm.lines()) == 1
