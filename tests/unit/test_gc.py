"""What `gc` removes, and above all what it leaves: live, pinned, needed, young, not ours."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from hpcpools import atomic
from hpcpools import config as configuration
from hpcpools.config import Config
from hpcpools.maintenance import gc
from hpcpools.maintenance.gc import Collected
from hpcpools.pipeline import record as pipelines
from hpcpools.pipeline.definition import parse
from hpcpools.runs import checkpoints, directory, removal, sweeps
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Code, Request, Resources, encode
from hpcpools.runs.states import RunState
from hpcpools.runs.sweeps import Definition, SweepFile
from hpcpools.runs.token import new_sweep_id, new_token

DAY = 86400.0
LATER = 40 * DAY  # from the making of everything to the collection


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A pool without Redis."""
    monkeypatch.setattr("hpcpools.maintenance.metrics.forget", lambda _config, _tokens: None)
    return configuration.parse({}, tmp_path / "hpcpools.toml", {})


def made(
    config: Config, state: RunState | None = RunState.COMPLETED, *, sweep: str = "", code: str = ""
) -> RunDirectory:
    """A run in this state; None: still pending."""
    now = time.time()
    facts = Code(code * 64, "/project", 1, 1) if code else None
    request = Request(new_token(now), now, "slurm", Resources(), command=("true",), sweep=sweep, code=facts)
    run = directory.create(config.root, request)
    run.record(state or RunState.PENDING, now)
    return run


def snapshot(config: Config, digit: str) -> Path:
    """A code snapshot, read-only as they are, with its patch."""
    place = config.root / ".code" / (digit * 64)
    (place / "package").mkdir(parents=True)
    config.root.chmod(0o700)
    (place / "package" / "module.py").write_text("x = 1\n")
    (place.parent / f"{place.name}.abc.patch").write_text("a patch")
    for folder in (place / "package", place):
        folder.chmod(0o500)
    return place


def collect(config: Config, *, dry_run: bool = False, later: float = LATER) -> Collected:
    """What is older than 30 days, seen from some days later."""
    found = gc.collect(config, 30 * DAY, dry_run=dry_run, now=time.time() + later)
    assert found.problems == []
    return found


def test_what_ended_long_ago_goes_with_its_marks(config: Config) -> None:
    """Completed, failed, cancelled alike; a dry run only tells."""
    ends = (RunState.COMPLETED, RunState.FAILED, RunState.CANCELLED, RunState.LOST)
    runs = [made(config, state) for state in ends]
    marks = config.root / ".evaluations"
    marks.mkdir(mode=0o700)
    (marks / runs[0].token).write_text("")
    (marks / "since.json").write_text('{"at": 0}')
    told = collect(config, dry_run=True)
    assert sorted(told.runs) == [run.token for run in runs]
    assert all(run.run_file.exists() for run in runs)
    assert collect(config).runs == told.runs
    assert directory.tokens(config.root) == directory.ended_tokens(config.root) == []
    assert os.listdir(marks) == ["since.json"]
    assert collect(config).runs == []


def test_live_and_young_runs_stay(config: Config) -> None:
    """However old a live one is; a young one has 30 days."""
    live = made(config, None)
    ended = made(config)
    assert collect(config, later=29 * DAY).runs == []
    assert collect(config).runs == [ended.token]
    assert live.run_file.exists()
    live.record(RunState.COMPLETED, time.time())
    live.revive(time.time())
    assert collect(config).runs == []


def test_a_run_sent_again_while_we_look_stays(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last look is right before the removal."""
    run = made(config)
    holds = gc._Collection._holds

    def meanwhile(self: gc._Collection, each: RunDirectory, brief: gc._Brief) -> str:
        run.revive(time.time())
        return holds(self, each, brief)

    monkeypatch.setattr(gc._Collection, "_holds", meanwhile)
    assert collect(config).runs == []
    assert run.run_file.exists()


def test_a_pinned_checkpoint_keeps_its_run(config: Config) -> None:
    """Pinned is for good; without the pin it goes."""
    run = made(config)
    with checkpoints.writing(run.checkpoints, 3, time.time(), {}) as tmp:
        (tmp / "state.pt").write_text("x")
    checkpoints.pin(run.checkpoints, 3, True)
    assert collect(config).kept == {"a pinned checkpoint": 1}
    checkpoints.pin(run.checkpoints, 3, False)
    assert collect(config).runs == [run.token]


def test_an_unevaluated_checkpoint_keeps_its_run(config: Config) -> None:
    """Continuous evaluation is not deprived of what it has not seen."""
    config = msgspec.structs.replace(config, continuous_evaluation={"tasks:fit": "tasks:score"})
    run = made(config)
    run.run_file.write_bytes(encode(msgspec.structs.replace(run.request(), target="tasks:fit", command=())))
    with checkpoints.writing(run.checkpoints, 3, time.time(), {}) as tmp:
        (tmp / "state.pt").write_text("x")
    assert collect(config).kept == {"an evaluation": 1}
    (config.root / ".evaluations").mkdir(mode=0o700)
    (config.root / ".evaluations" / run.token).write_text("")
    assert collect(config).runs == [run.token]


def test_a_sweep_goes_as_a_whole(config: Config) -> None:
    """One live element keeps the others, and the table of results, in place."""
    name = new_sweep_id(time.time())
    runs = [made(config, sweep=name), made(config, None, sweep=name)]
    place = sweeps.create(
        config.root, SweepFile(name, time.time(), Definition("t:f"), tuple(run.token for run in runs))
    )
    alone = made(config)
    found = collect(config)
    assert (found.runs, found.sweeps, found.kept) == ([alone.token], [], {"its sweep": 1})
    runs[1].record(RunState.FAILED, time.time())
    assert collect(config).sweeps == [name]
    assert not place.file.exists()
    assert not place.folder.exists()
    assert directory.tokens(config.root) == []


def test_a_run_that_lost_its_mark_stays(config: Config) -> None:
    """As in a root restored without hidden files: waiting, or sent again after an end that is told late."""
    run = made(config, None)
    for mark in (config.root / ".live").iterdir():
        mark.unlink()
    assert collect(config).kept == {"a problem": 1}
    assert [run.next_submission(time.time()) for _ in range(2)] == [0, 1]
    run.record(RunState.FAILED, time.time(), of=0)
    assert collect(config).kept == {"a problem": 1}
    run.record(RunState.FAILED, time.time(), of=1)
    assert collect(config).runs == [run.token]


def test_many_runs_go_by_several_processes(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one would remove them; a run that cannot be removed keeps its sweep and what follows in it."""
    remover, log = removal.remove_run, tmp_path / "pids"

    def traced(run: RunDirectory, *, dry_run: bool) -> bool:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return remover(run, dry_run=dry_run)

    monkeypatch.setattr(removal, "remove_run", traced)
    monkeypatch.setattr(gc, "CHUNK", 2)
    alone = [made(config) for _ in range(6)]
    name = new_sweep_id(time.time())
    runs = [made(config, sweep=name) for _ in range(5)]
    tokens = tuple(run.token for run in runs)
    place = sweeps.create(config.root, SweepFile(name, time.time(), Definition("t:f"), tokens))
    runs[2].path.chmod(0o777)
    heard: list[tuple[int, int]] = []
    found = gc.collect(
        config, DAY, dry_run=False, now=time.time() + LATER, heed=lambda *numbers: heard.append(numbers)
    )
    assert found.runs == sorted(run.token for run in (*alone, *runs[:2]))
    assert (len(found.problems), found.kept) == (1, {"a problem": 1, "its sweep": 2})
    assert directory.tokens(config.root) == sorted(tokens[2:], reverse=True)
    assert place.file.exists() and heard[-1] == (11, 11)
    pids = set(log.read_text().split())
    assert len(pids) > 1 and str(os.getpid()) not in pids


def test_a_pipeline_keeps_its_runs(config: Config) -> None:
    """While it is live or young: a later stage, or a retry, may want their checkpoints."""
    run = made(config, code="a")
    asked = parse({"stages": {"train": {"task": "t:f"}}}, "test")
    record = pipelines.create(config.root, asked, "test", {"train": "training"})
    coming = msgspec.structs.replace(run.request(), token=new_token(1.0), code=replace_digest(run, "b"))
    texts = [encode(run.request()).decode(), encode(coming).decode()]
    atomic.create_json(record.submit_file("train", 1), {"runs": texts})
    code = [snapshot(config, digit) for digit in "abc"]
    found = collect(config)
    assert (found.runs, found.pipelines, found.kept) == ([], [], {"its pipeline": 1})
    assert [place.exists() for place in code] == [True, True, False]
    record.close()
    found = collect(config)
    assert (found.runs, found.pipelines) == ([run.token], [record.id])
    assert os.listdir(config.root / ".code") == []
    assert pipelines.ids(config.root) == []


def replace_digest(run: RunDirectory, digit: str) -> Code:
    """The run's code with another digest."""
    facts = run.request().code
    assert facts is not None
    return msgspec.structs.replace(facts, digest=digit * 64)


def test_code_goes_when_no_run_refers_to_it(config: Config) -> None:
    """With its patch, read-only as it is; what was kept just now is that of a run to come."""
    kept, used = made(config, None, code="a"), made(config, code="b")
    places = [snapshot(config, digit) for digit in "abc"]
    os.utime(places[2], (time.time() + LATER, time.time() + LATER))
    store = config.root / ".code"
    (store / "notes").mkdir()
    (store / f".damaged.{'a' * 64}.0a1b").mkdir()
    (store / f".{'a' * 64}.0a1b.tmp").mkdir()
    left = [f".damaged.{'a' * 64}.0a1b", f".{'a' * 64}.0a1b.tmp"]
    assert sorted(collect(config, dry_run=True).snapshots) == sorted([*left, "b" * 64])
    assert places[1].exists()
    found = collect(config)
    assert (found.runs, sorted(found.snapshots)) == ([used.token], sorted([*left, "b" * 64]))
    assert (store / "notes").exists()
    assert [place.exists() for place in places] == [True, False, True]
    patches = sorted(name for name in os.listdir(config.root / ".code") if name.endswith(".patch"))
    assert patches == [f"{'a' * 64}.abc.patch"]
    assert kept.run_file.exists()


def test_an_unreadable_run_keeps_all_code(config: Config) -> None:
    """Nobody knows what it refers to; it is told, and left alone."""
    run = made(config)
    run.run_file.write_text("no JSON")
    place = snapshot(config, "a")
    found = gc.collect(config, DAY, dry_run=False, now=time.time() + LATER)
    assert found.snapshots == []
    assert run.token in found.problems[0]
    assert place.exists()
    assert run.path.exists()


def test_links_are_not_followed(config: Config, tmp_path: Path) -> None:
    """Neither a run, nor code, nor what lies in a run leads out of the root."""
    outside = tmp_path / "outside"
    (outside / "package").mkdir(parents=True)
    (outside / "run.json").write_text("{}")
    run = made(config)
    (run.path / "link").symlink_to(outside)
    other = new_token(time.time())
    (config.root / other).symlink_to(outside)
    (config.root / ".code").mkdir(mode=0o700)
    (config.root / ".code" / ("d" * 64)).symlink_to(outside)
    found = gc.collect(config, DAY, dry_run=False, now=time.time() + LATER)
    assert found.runs == [run.token]
    assert any(other in problem for problem in found.problems)
    assert (config.root / other).is_symlink()
    assert sorted(os.listdir(outside)) == ["package", "run.json"]
    (config.root / other).unlink()
    (config.root / ".code").rename(tmp_path / "elsewhere")
    (config.root / ".code").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Exception, match="symlink"):
        gc.collect(config, DAY, dry_run=False, now=time.time() + LATER)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_read_only_code_is_removed_by_its_owner() -> None:
    """Who is not root cannot simply unlink in a read-only directory."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.setresuid(65534, 65534, 65534)
                place = Path(folder) / "root" / "snapshot"
                (place / "a" / "b").mkdir(parents=True)
                (place / "a" / "b" / "module.py").write_text("")
                (place / "a" / "link").symlink_to("/etc")
                for each in (place / "a" / "b", place / "a", place):
                    each.chmod(0o500)
                removal.remove(place)
                code = len(os.listdir(place.parent))
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_killed_removal_is_finished(config: Config) -> None:
    """What was renamed away is gone for readers, and removed by the next call."""
    run = made(config)
    grave = run.path.with_name(f".{run.token}.0a1b2c3d.gone.tmp")
    run.path.rename(grave)
    assert directory.tokens(config.root) == []
    collect(config)
    assert not grave.exists()


def test_upkeep_removes_only_if_asked(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without [retention] runs nothing is collected."""
    from hpcpools import maintenance

    asked: list[float] = []

    def remember(_config: Config, older_than: float, *, dry_run: bool) -> Collected:
        asked.append(older_than)
        return Collected(dry_run)

    monkeypatch.setattr(gc, "collect", remember)
    monkeypatch.setattr(configuration, "load", lambda: config)
    assert "gc" not in maintenance.cleanup_old_checkpoints()
    asked_for = configuration.parse({"retention": {"runs": "30d"}}, Path(config.file), {})
    monkeypatch.setattr(configuration, "load", lambda: asked_for)
    assert maintenance.cleanup_old_checkpoints()["gc"]["runs"] == 0
    assert asked == [30 * DAY]
    assert replace(Collected(True), runs=["x"]).summary()["runs"] == 1
