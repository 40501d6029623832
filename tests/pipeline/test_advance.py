"""Advancing on a real pool: crashes between any two steps, many at once, wiped Redis; each stage once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from hpcpools import atomic
from hpcpools.errors import RunFailedError, UsageError
from hpcpools.pipeline import advance, stageruns
from hpcpools.pipeline import record as recording
from hpcpools.pipeline.definition import parse
from hpcpools.pipeline.record import PipelineRecord
from hpcpools.runs import directory
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import decode
from hpcpools.runs.states import RunState
from hpcpools.runs.view import read_view
from tests.pipeline.lab import TASKS, PipelineLab
from tests.short.lab import ROOT, wait_for

FIT = {"task": "fit", "arguments": {"data": "d", "lr": 0.1}}


def only_run(lab: PipelineLab) -> RunDirectory:
    """The one run there is."""
    (token,) = directory.tokens(lab.config.root)
    return RunDirectory(lab.config.root, token)


def finish(run: RunDirectory, result: object) -> None:
    """What the node and the poller leave of a good run."""
    atomic.write_json(run.result_file, result)
    run.record(RunState.COMPLETED, time.time())


def test_values_pass_from_stage_to_stage(lab: PipelineLab) -> None:
    """A short result by key into a swept training, all results and checkpoints into the last stage."""
    lab.start_pool()
    train = {"task": "fit", "arguments": {"data": {"$from": "prepare", "key": "path"}}}
    record = lab.start(
        {
            "prepare": {"task": "prepare"},
            "train": {**train, "sweep": {"lr": [0.1, 0.2], "seed": [7]}},
            "report": {
                "task": "report",
                "arguments": {
                    "found": [{"$from": "train", "key": "score"}, {"$from": "train", "of": "token"}]
                },
            },
        }
    )
    wait_for(lambda: lab.states(record)["train"] == "RUNNING", "the runs are submitted")
    tokens = stageruns.tokens(record.submit_file("train", 1))
    assert sorted(tokens) == directory.live_tokens(lab.config.root)
    runs = [RunDirectory(lab.config.root, token) for token in tokens]
    assert [run.request().arguments for run in runs] == [
        {"data": "/data", "lr": lr, "seed": 7} for lr in (0.1, 0.2)
    ]
    finish(runs[0], {"score": 1})
    assert lab.states(record) == {"prepare": "COMPLETED", "train": "RUNNING", "report": "WAITING"}
    finish(runs[1], {"score": 2})
    assert advance.wait(lab.config, record, 20).state == "COMPLETED"
    assert advance.result(record, "report") == [[1, 2], tokens]
    assert not record.is_live()


def test_a_missing_key_fails_the_stage(lab: PipelineLab) -> None:
    """With the reason; nothing hangs."""
    lab.start_pool()
    record = lab.start(
        {
            "prepare": {"task": "prepare"},
            "report": {"task": "report", "arguments": {"found": {"$from": "prepare", "key": "pth"}}},
        }
    )
    assert advance.wait(lab.config, record, 20).state == "FAILED"
    assert "has no 'pth'" in advance.snapshot(record).standings["report"].why
    with pytest.raises(RunFailedError, match="has no 'pth'"):
        advance.result(record, "report")


@pytest.mark.parametrize("died", ["before the run", "in its directory", "before it was queued"])
def test_a_crash_while_submitting_a_training_is_healed(lab: PipelineLab, died: str) -> None:
    """The submit record names the run: the next advance finds how far it came; the token stays."""
    record = lab.start({"train": FIT})
    run = only_run(lab)
    request = run.request()
    (claim,) = record.path.glob("*.claim.0.json")
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    atomic.write_json(claim, {**(atomic.read_json(claim) or {}), "pid": dead.pid})
    (record.path / f"{run.token}.sent.json").unlink()
    if died == "before it was queued":
        lines = run.events_file.read_text().splitlines(keepends=True)
        run.events_file.write_text(lines[0])
    else:
        directory.discard(run)
        if died == "in its directory":
            run.path.mkdir(mode=0o700)
            (run.path / "attempts").mkdir()
    assert lab.states(record) == {"train": "RUNNING"}
    assert only_run(lab).request() == request
    assert read_view(run).state is RunState.PENDING
    assert directory.live_tokens(lab.config.root) == [run.token]


def test_a_living_submitter_is_not_disturbed(lab: PipelineLab) -> None:
    """Its claim holds as long as it lives."""
    record = lab.start({"train": FIT})
    run = only_run(lab)
    (claim,) = record.path.glob("*.claim.0.json")
    facts = atomic.read_json(claim) or {}
    other = {**facts, "pid": os.getppid(), "pid_start": _start_of(os.getppid())}
    atomic.write_json(claim, other)
    (record.path / f"{run.token}.sent.json").unlink()
    directory.discard(run)
    assert lab.states(record) == {"train": "RUNNING"}
    assert not run.path.exists()
    atomic.write_json(claim, {**other, "host": "elsewhere"})
    assert not record.claim(run.token)
    atomic.write_json(claim, {**other, "host": "elsewhere", "at": time.time() - 3600})
    assert record.claim(run.token)


def _start_of(pid: int) -> int:
    from hpcpools.training import nodeenv

    return nodeenv.process_start(pid)


def test_many_advance_at_once(lab: PipelineLab) -> None:
    """Three loops and two kills: each run of the sweep once, each short stage once."""
    log = str(lab.log)
    loops = [lab.loop("advance") for _ in range(3)]
    lab.start_pool()
    (lab.folder / "tasks.log.go").write_text("")
    record = lab.start(
        {
            "slow": {"task": "slowly", "arguments": {"log": log}},
            "train": {**FIT, "sweep": {"seed": [1, 2, 3, 4]}, "after": ["slow"]},
            "more": {"task": "slowly", "arguments": {"log": log}, "after": ["train"]},
        }
    )
    wait_for(lambda: directory.tokens(lab.config.root), "the first run")
    loops[0].kill()
    wait_for(lambda: len(directory.live_tokens(lab.config.root)) == 4, "all runs")
    loops[1].kill()
    requests = [decode(text.encode()) for text in _submit(record, "train")["runs"]]
    assert sorted(request.token for request in requests) == directory.live_tokens(lab.config.root)
    for request in requests:
        run = RunDirectory(lab.config.root, request.token)
        wait_for(partial(_is_pending, run), "it is queued")
        assert [event["state"] for event in run.events()].count("SUBMITTING") == 1
        finish(run, None)
    wait_for(lambda: not record.is_live(), "the end")
    assert advance.snapshot(record).state == "COMPLETED"
    assert [line[0] for line in lab.lines()] == ["begin", "end"] * 2


def _is_pending(run: RunDirectory) -> bool:
    return run.run_file.exists() and read_view(run).state is RunState.PENDING


def _submit(record: PipelineRecord, stage: str) -> dict[str, list[str]]:
    return dict(atomic.read_json(record.submit_file(stage, 1)) or {})


def test_redis_wiped_while_a_stage_runs(lab: PipelineLab) -> None:
    """The job is given again, waits for its living copy, and takes its value: it ran once."""
    lab.start_pool()
    record = lab.start({"slow": {"task": "slowly", "arguments": {"log": str(lab.log)}}})
    wait_for(lab.lines, "it runs")
    lab.redis.flushall()
    assert lab.states(record) == {"slow": "RUNNING"}
    wait_for(lambda: lab.redis.hget(f"rq:job:{record.id}-slow-1", "status") == b"started", "the copy")
    (lab.folder / "tasks.log.go").write_text("")
    assert advance.wait(lab.config, record, 20).state == "COMPLETED"
    assert [line[0] for line in lab.lines()] == ["begin", "end"]
    lab.redis.flushall()
    assert advance.result(record, "slow") == "slow"
    assert lab.states(record) == {"slow": "COMPLETED"}


def test_a_run_that_slurm_has_forgotten(lab: PipelineLab) -> None:
    """A failed parent blocks, a completed one allows: by the run directory, whatever Slurm has purged."""
    record = lab.start({"train": FIT, "next": {**FIT, "after": ["train"]}})
    run = only_run(lab)
    run.record(RunState.LOST, time.time(), cause="lost", reason="no record in Slurm")
    assert lab.states(record) == {"train": "FAILED", "next": "BLOCKED"}
    assert "LOST: lost: no record in Slurm" in advance.snapshot(record).standings["train"].why
    directory.discard(run)  # and whatever became of the directory since
    assert lab.states(record) == {"train": "FAILED", "next": "BLOCKED"}
    assert advance.retry(lab.config, record).state == "RUNNING"
    again = only_run(lab)
    assert again.token != run.token
    finish(again, None)
    assert lab.states(record) == {"train": "COMPLETED", "next": "RUNNING"}


def test_an_end_that_may_become_a_restart_is_awaited(lab: PipelineLab) -> None:
    """The node said "failed", but the end is not recorded yet: the pipeline does not judge first."""
    record = lab.start({"train": FIT, "next": {**FIT, "after": ["train"]}})
    run = only_run(lab)
    number = run.next_submission(time.time()) or 0
    attempt = run.attempts / f"{number}.0"
    attempt.mkdir()
    atomic.write_json(attempt / "start.json", {"at": time.time(), "job_id": "1"})
    atomic.write_json(attempt / "end.json", {"outcome": "failed", "at": time.time(), "cause": "user error"})
    assert read_view(run).state is RunState.FAILED
    assert lab.states(record) == {"train": "RUNNING", "next": "WAITING"}
    run.record(RunState.FAILED, time.time(), cause="user error")
    assert lab.states(record) == {"train": "FAILED", "next": "BLOCKED"}


def test_cancel_and_retry(lab: PipelineLab) -> None:
    """What runs is ended, what waits never starts; a retry tries anew what did not succeed."""
    lab.start_pool()
    log = str(lab.log)
    record = lab.start(
        {
            "slow": {"task": "slowly", "arguments": {"log": log}},
            "train": FIT,
            "last": {"task": "report", "after": ["slow", "train"]},
        }
    )
    wait_for(lab.lines, "it runs")
    with pytest.raises(UsageError, match="still running"):
        advance.retry(lab.config, record)
    advance.cancel(lab.config, record)
    assert advance.wait(lab.config, record, 20).state == "CANCELLED"
    assert set(lab.states(record).values()) == {"CANCELLED"}
    assert read_view(only_run(lab)).state is RunState.CANCELLED
    (lab.folder / "tasks.log.go").write_text("")
    advance.retry(lab.config, record)
    assert record.is_live()
    wait_for(lambda: len(directory.tokens(lab.config.root)) == 2, "a new run")
    finish(RunDirectory(lab.config.root, directory.tokens(lab.config.root)[0]), None)
    assert advance.wait(lab.config, record, 20).state == "COMPLETED"
    with pytest.raises(UsageError, match="succeeded"):
        advance.retry(lab.config, record)


def test_a_submission_that_crosses_a_cancel_is_ended(lab: PipelineLab) -> None:
    """A slow process submits what another one has cancelled and closed: the pipeline is live again."""
    asked = parse({"stages": {"train": {**FIT, "task": f"{TASKS}:fit"}}}, "test")
    record = recording.create(lab.config.root, asked, "test", {"train": "training"})
    before = advance.snapshot(record)
    assert advance.cancel(lab.config, record).state == "CANCELLED"
    assert not record.is_live()
    advance._step(lab.config, record, before)
    assert record.is_live()
    ended = {"pipelines": {record.id: "CANCELLED"}, "problems": []}
    wait_for(lambda: advance.advance_all(lab.config) == ended, "its end")
    assert read_view(only_run(lab)).state is RunState.CANCELLED
    assert not record.is_live()


def test_policies_on_a_real_pool(lab: PipelineLab) -> None:
    """continue passes null on; skip leaves out; the failure is told."""
    lab.start_pool()
    failing = {"task": "fails", "arguments": {"log": str(lab.log)}}
    record = lab.start(
        {
            "bad": {**failing, "on_failure": "continue"},
            "told": {"task": "report", "arguments": {"found": [{"$from": "bad"}]}},
            "worse": {**failing, "on_failure": "skip"},
            "out": {"task": "report", "after": ["worse"]},
        }
    )
    assert advance.wait(lab.config, record, 20).state == "COMPLETED"
    assert lab.states(record) == {"bad": "FAILED", "told": "COMPLETED", "worse": "FAILED", "out": "SKIPPED"}
    assert advance.result(record, "told") == [None]
    assert "made of cheese" in advance.snapshot(record).standings["bad"].why
    assert [line[0] for line in lab.lines()] == ["failed", "failed"]


def test_a_frozen_redis_between_record_and_job(lab: PipelineLab) -> None:
    """Killed after the submit record and before the job: the next advance gives it, under the same id."""
    loop = lab.loop("advance")
    lab.server.send_signal(signal.SIGSTOP)
    record = PipelineRecord(lab.config.root, _started_in_a_process(lab))
    wait_for(record.submit_file("report", 1).exists, "the record")
    loop.kill()
    loop.wait()
    lab.server.send_signal(signal.SIGCONT)
    lab.start_pool()
    assert advance.wait(lab.config, record, 20).state == "COMPLETED"
    assert lab.redis.keys("rq:job:hq-*") == [f"rq:job:{record.id}-report-1".encode()]


def _started_in_a_process(lab: PipelineLab) -> str:
    """A pipeline whose starter is killed as soon as the definition is durable."""
    code = (
        "import sys; from pathlib import Path; from hpcpools import config, Pipeline\n"
        "from hpcpools.pipeline import advance\n"
        "made = Pipeline(); made.stage('report', 'tests.unit.pipeline.tasks_for_tests:report')\n"
        "advance.start(config.load(Path(sys.argv[1])), made.definition(), 'test')\n"
    )
    starter = subprocess.Popen([sys.executable, "-c", code, lab.config.file], cwd=ROOT)
    folder = lab.config.root / ".pipelines" / ".live"
    name: str = wait_for(lambda: folder.is_dir() and next(iter(os.listdir(folder)), ""), "the pipeline")
    starter.kill()
    starter.wait()
    return name
