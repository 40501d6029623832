"""The load that hpcpools puts on Slurm, counted by programs that stand in for it (LOAD-1 to LOAD-6)."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpcpools import config
from hpcpools.config import Config
from hpcpools.errors import RefusedError
from hpcpools.runs import directory, token
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Request, Resources
from hpcpools.runs.states import RunState
from hpcpools.runs.sweeps import Element, SweepDirectory
from hpcpools.runs.view import read_view
from hpcpools.slurm.command import Runner
from hpcpools.training import arrays, inflight, submit, watch
from tests.unit.training.test_watch import FakeSlurm, job, pending

ASKING = ("squeue", "sacct", "scontrol", "sinfo")
SECONDS = float(os.environ.get("HPCPOOLS_LOAD_SECONDS", "0"))  # `make chaos`: 600

SACCT = """#!{python}
import json, sys
from pathlib import Path
here = Path(__file__).parent
with open(here / "calls", "a") as calls:
    calls.write("sacct\\n")
mark = next(word.partition("=")[2] for word in sys.argv if word.startswith("--delimiter="))
fields = sys.argv[sys.argv.index("-o") + 1].split(",")
listed = {job["JobArrayID"] for job in json.loads((here / "jobs.json").read_text())}
for job in map(json.loads, (here / "all.jsonl").read_text().splitlines()):
    if job["JobArrayID"] not in listed:
        said = {"JobID": job["JobArrayID"], "Comment": job["Comment"], "State": "CANCELLED"}
        print("".join(said.get(name, "") + mark for name in fields))
"""


@pytest.fixture
def slurm(tmp_path: Path) -> FakeSlurm:
    """Fake Slurm; what else a command line may call is counted, too."""
    fake = FakeSlurm(tmp_path / "bin")
    for name in ("scontrol", "sinfo", "sbatch", "srun"):
        line = f"echo {name} >> {fake.folder}/calls\n" if name in ASKING else ""
        (fake.folder / name).write_text(f"#!/bin/sh\n{line}exit 0\n")
        (fake.folder / name).chmod(0o755)
    return fake


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    """As by default."""
    (tmp_path / "hpcpools.toml").write_text("")
    return config.load(tmp_path / "hpcpools.toml")


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand durable runs take long to write; how durable they are does not matter here."""
    monkeypatch.setattr(os, "fsync", lambda _fd: None)


def test_the_interval() -> None:
    """LOAD-2: five times what the last poll took, 30 s at least, 300 s at most, ±20 %."""
    assert watch.pace(30, 0.1, 0.5) == pytest.approx(30)
    assert watch.pace(30, 0.1, 0) == pytest.approx(24)
    assert watch.pace(30, 0.1, 1) == pytest.approx(36)
    assert watch.pace(30, 20, 0) + 20 >= 100
    assert watch.pace(30, 500, 0.5) == pytest.approx(300)
    assert watch.pace(600, 1, 0.5) == pytest.approx(600)


def test_twenty_readers_for_ten_minutes(slurm: FakeSlurm, settings: Config) -> None:
    """LOAD-1: 20 readers that look every 5 s cost 21 squeue in ten minutes, and no sacct."""
    random.seed(7)
    runs = [pending(settings, str(number)) for number in range(5)]
    slurm.show(*(job(run, str(number), "RUNNING") for number, run in enumerate(runs)))
    start, clock = time.time(), [0.0]
    runner = Runner({"PATH": str(slurm.folder)}, clock=lambda: clock[0])
    for step in range(120):
        for reader in range(20):
            clock[0] = start + 5 * step + reader / 4
            seen = watch.refresh(settings, runner, now=clock[0])
            assert seen.as_of is not None
            assert clock[0] - seen.as_of <= 45
    calls = slurm.calls()
    assert 15 <= calls.count("squeue") <= 21
    assert set(calls) == {"squeue"}


def test_many_jobs_vanish_at_once(slurm: FakeSlurm, settings: Config, unsynced: None) -> None:
    """LOAD-3: 100 jobs leave the queue; all are settled within five minutes with at most 3 sacct."""
    runs = [pending(settings, str(number)) for number in range(100)]
    slurm.show()
    start, clock = time.time(), [0.0]
    runner = Runner({"PATH": str(slurm.folder)}, clock=lambda: clock[0])
    for step in range(31):
        clock[0] = start + 10 * step
        watch.refresh(settings, runner, now=clock[0])
    views = [read_view(run) for run in runs]
    assert all(view.state.is_final or view.restart_kind for view in views)
    assert slurm.calls().count("sacct") <= 3
    assert slurm.calls().count("squeue") <= 14


def test_unsettled_submissions_share_one_look(slurm: FakeSlurm, settings: Config, unsynced: None) -> None:
    """Fifty runs whose sbatch gave no clear answer: upkeep settles them with one squeue and one sacct."""
    now = time.time()
    runs = []
    for number in range(50):
        created = now - 1000 + number
        request = Request(token.new_token(created), created, "slurm", Resources(), command=("true",))
        run = directory.create(settings.root, request)
        run.next_submission(created)
        runs.append(run)
    slurm.show(*(job(run, str(number), "PENDING") for number, run in enumerate(runs[:25])))
    runner = slurm.runner
    done = [submit.settle_old(settings, runner, RunDirectory(settings.root, run.token), now) for run in runs]
    assert done == ["adopted"] * 25 + ["failed"] * 25
    assert sorted(slurm.calls()) == ["sacct", "squeue"]


def test_a_thousand_jobs_and_twenty_terminals(
    slurm: FakeSlurm, settings: Config, tmp_path: Path, unsynced: None
) -> None:
    """LOAD-1: twenty real `status --watch` over 1000 runs, of which some leave the queue all the time.

    One squeue per interval and one sacct per minute, none per job: in ten minutes (`make chaos`) at most 21
    and 10; in `make test`, with a quicker poll, until every terminal has shown the runs.
    """
    poll = 30 if SECONDS else 4
    (tmp_path / "hpcpools.toml").write_text(f'[slurm]\npoll_interval = "{poll}s"\n')
    (slurm.folder / "sacct").write_text(SACCT.replace("{python}", sys.executable))
    runs = [pending(settings, str(number)) for number in range(1000)]
    jobs = [job(run, str(number), "PENDING", Reason="Priority") for number, run in enumerate(runs)]
    slurm.show(*jobs)
    (slurm.folder / "all.jsonl").write_text("".join(json.dumps(each) + "\n" for each in jobs))
    env = {
        **{name: value for name, value in os.environ.items() if name != "HPCPOOLS_LOAD_SECONDS"},
        "PATH": f"{slurm.folder}:/usr/bin:/bin",
        "HPCPOOLS_CONFIG": str(tmp_path / "hpcpools.toml"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    started = time.monotonic()
    screens = []
    readers = []
    for number in range(20):
        screens.append((tmp_path / f"screen-{number}").open("wb"))
        argv = [sys.executable, "-m", "hpcpools", "status", "--watch", "10"]
        readers.append(subprocess.Popen(argv, cwd=tmp_path, env=env, stdout=screens[-1], stderr=screens[-1]))
    try:
        while (
            min(screen(tmp_path, number).count("TRAINING  Slurm") for number in range(20)) < 1
            or time.monotonic() - started < SECONDS
        ):
            assert time.monotonic() - started < SECONDS + 120
            assert [reader.poll() for reader in readers] == [None] * 20
            if slurm.calls() and len(jobs) > 100:
                slurm.show(*(jobs := jobs[1:]))
            time.sleep(0.5)
        elapsed = time.monotonic() - started
        calls = slurm.calls()
    finally:
        for reader in readers:
            reader.send_signal(signal.SIGINT)
        codes = [reader.wait(30) for reader in readers]
        for file in screens:
            file.close()
    assert codes == [0] * 20  # Ctrl-C is how it ends
    shown = [screen(tmp_path, number) for number in range(20)]
    assert not any("\x1b" in text or "Traceback" in text for text in shown)  # piped: no colours, no cursor
    assert any(
        "TRAINING  Slurm, as of" in text for text in shown
    )  # whoever came before the first answer says none
    counts = {name: calls.count(name) for name in ASKING}
    print(f"{elapsed:.0f} s, {1000 - len(jobs)} jobs left: {counts}")
    assert counts["scontrol"] == counts["sinfo"] == 0
    assert 1 <= counts["squeue"] <= (21 if SECONDS else elapsed / (poll * 0.8) + 1)
    assert counts["sacct"] <= max(1, elapsed // 60)
    if SECONDS:
        assert counts["sacct"] >= 5  # the jobs that left were asked for
        assert counts["squeue"] >= SECONDS / 60
    tokens = [run.token for run in runs[: 1000 - len(jobs)]]
    ended = set(directory.ended_tokens(settings.root))
    assert ended <= set(tokens)
    assert not SECONDS or len(ended) > len(tokens) / 2


def screen(folder: Path, number: int) -> str:
    """What one reader printed so far."""
    return (folder / f"screen-{number}").read_text(errors="replace")


def test_fresh_is_rare(slurm: FakeSlurm, settings: Config, tmp_path: Path) -> None:
    """LOAD-6: `--fresh` three times in a row asks Slurm once; without it the shared answer is good enough."""
    run = pending(settings, "7")
    slurm.show(job(run, "7", "RUNNING"))
    env = {
        **os.environ,
        "PATH": f"{slurm.folder}:/usr/bin:/bin",
        "HPCPOOLS_CONFIG": str(tmp_path / "hpcpools.toml"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }

    def cli(*words: str) -> None:
        argv = [sys.executable, "-m", "hpcpools", *words]
        subprocess.run(argv, cwd=tmp_path, env=env, check=True, capture_output=True, timeout=60)

    cli("runs")
    cli("show", run.token)
    assert slurm.calls() == ["squeue"]
    began = time.monotonic()
    for words in (("status", "--fresh"), ("runs", "--fresh"), ("show", run.token, "--fresh")):
        cli(*words)
    assert len(slurm.calls()) <= 2 + (time.monotonic() - began) // 10


def test_a_limit_to_what_is_in_flight(slurm: FakeSlurm, settings: Config, tmp_path: Path) -> None:
    """LOAD-5: one more training than the limit is refused with exit code 4, before anything is written."""
    (tmp_path / "hpcpools.toml").write_text("[slurm]\nmax_in_flight = 3\n")
    few = config.load(tmp_path / "hpcpools.toml")
    runs = [pending(few, str(number)) for number in range(2)]
    inflight.check(few)
    runs.append(pending(few, "2"))
    with pytest.raises(RefusedError, match="3 trainings"):
        inflight.check(few)
    (slurm.folder / "sbatch").write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho sbatch >> calls\n')
    env = {**os.environ, "PATH": f"{slurm.folder}:/usr/bin:/bin", "XDG_STATE_HOME": str(tmp_path / "state")}
    argv = [sys.executable, "-m", "hpcpools", "train", "--gpus", "0", "--", "true"]
    done = subprocess.run(argv, cwd=tmp_path, env=env, check=False, capture_output=True, text=True)
    assert done.returncode == 4
    assert "the limit is 3" in done.stderr
    assert "hint: " in done.stderr
    assert sorted(directory.tokens(few.root)) == sorted(run.token for run in runs)
    assert not (tmp_path / "calls").exists()
    runs[0].record(RunState.COMPLETED, time.time())
    inflight.check(few)


def test_of_a_sweep_counts_what_may_run_at_once(settings: Config, tmp_path: Path) -> None:
    """LOAD-5: elements that wait in their array are the array's business; local runs are not Slurm's."""
    (tmp_path / "hpcpools.toml").write_text("[slurm]\nmax_in_flight = 3\n")
    few = config.load(tmp_path / "hpcpools.toml")
    now = time.time()
    sweep = token.new_sweep_id(now)
    elements = []
    for _ in range(6):
        request = Request(token.new_token(now), now, "slurm", Resources(), command=("true",), sweep=sweep)
        run = directory.create(few.root, request)
        elements.append(Element(run.token, 0, run.digest()))
    (few.root / ".sweeps" / sweep).mkdir(parents=True)
    place = SweepDirectory(few.root, sweep)
    assert inflight.count(few) == 6  # its arrays cannot be read
    place.new_array(elements, 2, now)
    assert inflight.count(few) == 2
    local = Request(token.new_token(now), now, "local", Resources(), command=("true",))
    directory.create(few.root, local)
    pending(few, "7")
    assert inflight.count(few) == 3


def test_a_sweep_keeps_to_the_limit(
    slurm: FakeSlurm, settings: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LOAD-5: 2000 runs in two arrays, of which 500 run at once, also if the user asks for more."""
    (slurm.folder / "scontrol").write_text("#!/bin/sh\necho 'MaxArraySize = 4000'\n")
    monkeypatch.setenv("PATH", f"{slurm.folder}:{os.defpath}")
    for asked, at_once in ((0, 250), (1000, 250), (8, 4)):
        assert arrays.layout(settings, 2000, asked) == [(1000, at_once)] * 2
