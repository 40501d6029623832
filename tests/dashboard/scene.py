"""A project with something on every page: real runs, jobs, a sweep and a pipeline of the local slot, and
planted records for what needs days or GPUs. Some of it was named by somebody who means harm."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

from hpcpools import atomic, config
from hpcpools.config import Config
from hpcpools.redisdb.connect import connect
from hpcpools.runs import directory, nodes
from hpcpools.runs.attempts import Place, claim, end
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.metrics import log
from hpcpools.runs.request import Request, Resources
from hpcpools.runs.states import Cause, RunState
from hpcpools.runs.token import new_token
from tests.project import Project

EVIL = '<img src=x onerror="alert(1)"><script>alert(2)</script>\'"`{{7*7}}\u202e'
TASKS = """
from hpcpools import task

@task(timeout="1m")
def evil(text="x"):
    raise ValueError({said!r})

@task(timeout="5m")
def sleeper(until="x"):
    import pathlib, time
    while not pathlib.Path(until).exists():
        time.sleep(0.1)
"""
PIPELINE = """
name = "nightly"
[stages.data]
task = "usertasks:evaluate"
[stages.fit]
task = "usertasks:learn"
after = ["data"]
arguments = { steps = 4 }
[stages.check]
task = "usertasks:evaluate"
after = ["fit"]
arguments = { ckpt = { "$from" = "fit", of = "checkpoint" } }
[stages.compare]
task = "usertasks:broken"
after = ["fit"]
[stages.report]
task = "usertasks:evaluate"
after = ["check", "compare"]
"""
PLANTED = 130
RELEASE = "release"  # the file that ends the trainings that hold the slot


@dataclass
class Scene:
    """The project and the names of what is in it."""

    project: Project
    config: Config
    done: str
    failed: str
    holding: str
    waiting: str
    evil_run: str
    gpu_run: str
    sweep: str
    pipeline: str
    finished_job: str
    evil_job: str
    stuck_job: str
    half_failed: str


def make(project: Project, said: str = EVIL) -> Scene:
    """Build it, with ``said`` wherever somebody else chooses the words; the services go on running."""
    (project.folder / "eviltasks.py").write_text(TASKS.format(said=said))
    text = '[project]\nmodules = ["usertasks", "eviltasks"]\n[short]\nworkers = 2\n'
    (project.folder / "hpcpools.toml").write_text(text)
    project.cli("up")
    done = project.train("usertasks:learn", "steps=12", "--label", "digits-baseline")
    failed = project.train("usertasks:fail", "--label", "cheese")
    sweep = project.cli("sweep", "usertasks:learn", "lr=0.1,0.01", "steps=2").stdout.split()[0]
    half_failed = project.cli("sweep", "usertasks:hungry", "batch=8,16").stdout.split()[0]
    (project.folder / "nightly.toml").write_text(PIPELINE)
    pipeline = project.cli("pipeline", "run", "nightly.toml").stdout.strip()
    finished = project.cli("enqueue", "usertasks:evaluate", "ckpt=a.pt").stdout.strip()
    evil_job = project.cli("enqueue", "eviltasks:evil", "text=" + said).stdout.strip()
    stuck = project.cli("enqueue", "eviltasks:sleeper", "until=/nowhere").stdout.strip()
    project.cli("pipeline", "wait", pipeline, "--timeout", "60s", check=False)
    project.cli("wait", done, failed, sweep, half_failed, check=False)
    until = project.folder / RELEASE
    holding = project.train("usertasks:hold", f"until={until}", "--label", "long-training")
    waiting = project.train("usertasks:hold", f"until={until}", "--label", "after-that")
    project.until_state(holding, "RUNNING", timeout=120)
    settings = config.load(project.folder / "hpcpools.toml")
    gpu_run, evil_run = plant(settings.root, said=said)
    _busy(settings.root)
    project.cli("upkeep", "update_job_metrics")
    if said == EVIL:
        _spoil(settings, evil_job)
    return Scene(
        project,
        settings,
        done,
        failed,
        holding,
        waiting,
        evil_run,
        gpu_run,
        sweep,
        pipeline,
        finished,
        evil_job,
        stuck,
        half_failed,
    )


def plant(root: Path, many: int = PLANTED, said: str = EVIL) -> tuple[str, str]:
    """Ended runs of the last days, one measured on GPUs, one with ``said`` all over, and two bad nodes."""
    now = time.time()
    for number in range(many):
        at = now - 86400 * 3 + number * 600
        state = (RunState.COMPLETED, RunState.COMPLETED, RunState.FAILED, RunState.TIMEOUT)[number % 4]
        run = _run(root, at, f"ablation-{number:03d}", gpus=4)
        cause = {RunState.FAILED: Cause.USER_ERROR, RunState.TIMEOUT: Cause.TIME_LIMIT}.get(state)
        run.record(state, at + 3000, cause=cause.value if cause else None)
        run.ended_mark.unlink(missing_ok=True)
    gpu = _measured(root, now)
    evil = _run(root, now - 7000, said, gpus=0)
    evil.record(RunState.FAILED, now - 6000, cause=Cause.USER_ERROR.value, reason=said)
    folder = claim(
        evil, 0, Place("", "9", 0, "node-" + said if said == EVIL else "gpu-002", 1, 1, "b"), now - 6900
    )
    assert folder is not None
    (folder / "log.out").write_text(f"before {said} after\n\x1b[2J\x1b]0;title\x07ok\n")
    end(folder, "failed", now - 6000, exit_code=1, cause=Cause.USER_ERROR, error=said)
    finding = {"check": "GPU-7", "level": "FAIL", "value": said, "gpu": "3", "uuid": "GPU-5d1c"}
    for name, age, value in (
        ("gpu-017", 4000, "XID 79 on the bus"),
        ("gpu-017", 9000, said),
        ("gpu-021", 5000, said),
    ):
        facts = {**finding, "value": value}
        nodes.record_failure(
            root, name, new_token(now - age), {"at": now - age, "verdict": "FAIL", "findings": [facts]}
        )
    return gpu, evil.token


def _run(root: Path, at: float, label: str, gpus: int) -> RunDirectory:
    request = Request(
        new_token(at),
        at,
        "slurm",
        Resources(gpus=gpus, partition="gpu"),
        target="train:fit",
        label=label,
        user="me",
    )
    run = directory.create(root, request)
    run.next_submission(at)
    return run


def _measured(root: Path, now: float) -> str:
    """A run of two attempts with a loss curve and the utilisation of four GPUs."""
    begin = now - 7200
    run = _run(root, begin, "resnet-large", gpus=4)
    for restart, (start, stop) in enumerate(((begin + 600, begin + 3000), (begin + 3300, now - 600))):
        folder = claim(run, 0, Place("lab", "4711", restart, "gpu-003", 1, 1, "b"), start)
        assert folder is not None
        (folder / "log.out").write_text("".join(f"step {n} loss {2 / (1 + n):.4f}\n" for n in range(4000)))
        lines = []
        for number in range(180):
            at = start + (stop - start) * number / 180
            busy = 78 + 16 * math.sin(number / 5 + restart)
            gpus = [{"util": round(max(0, min(100, busy - 7 * k))), "mem": 61} for k in range(4)]
            lines.append(
                json.dumps({"at": at, "used": busy * number, "step": number, "verdict": "", "gpus": gpus})
            )
        (folder / "gpu.jsonl").write_text("\n".join(lines) + "\n")
        if restart:
            end(folder, "completed", stop)
        else:
            end(folder, "stopped", stop, requeued="preemption")
    for step in range(1, 400):
        at = begin + 600 + step * 16
        wobble = 0.08 * math.sin(step * 1.7) / (1 + step / 60)
        log(
            run.metrics_file,
            at,
            step * 25,
            9975,
            {
                "loss": 0.2 + 2.1 * math.exp(-step / 60) + wobble,
                "val_loss": 0.31 + 2.0 * math.exp(-step / 70),
                "lr": 1e-3,
            },
        )
    for step in (2500, 5000, 7500, 9975):
        folder = run.checkpoints / f"step-{step:09d}"
        folder.mkdir()
        (folder / "model.pt").write_bytes(b"x" * 4096)
        manifest = {
            "step": step,
            "at": begin + 600 + step * 0.64,
            "size": 191_234_567,
            "metrics": {"loss": 0.2},
            "files": {},
        }
        atomic.write_json(folder / "manifest.json", manifest)
    run.record(RunState.PENDING, begin + 1, job_id="4711")
    run.record(RunState.RUNNING, begin + 601)
    run.record(
        RunState.PENDING, begin + 3010, detail="PREEMPTED", reason="preempted by a partition of higher tier"
    )
    run.record(RunState.RUNNING, begin + 3301)
    run.record(RunState.COMPLETED, now - 600)
    atomic.write_json(run.result_file, {"accuracy": 0.914})
    return run.token


def _busy(root: Path) -> None:
    """Trainings on nodes of a Slurm that is not here; see :func:`forget`."""
    now = time.time()
    for number, busy in enumerate((96, 71, 12)):
        run = _run(root, now - 5000 - number, f"pretrain-{number}", gpus=4)
        folder = claim(run, 0, Place("lab", f"48{number}", 0, f"gpu-00{number + 4}", 1, 1, "b"), now - 4000)
        assert folder is not None
        gpus = [{"util": busy, "mem": 60}] * 4
        line = {"at": now, "used": 4.0, "step": 5, "verdict": "", "gpus": gpus}
        (folder / "gpu.jsonl").write_text(json.dumps(line) + "\n")
        log(run.metrics_file, now - 30, 1200 + 700 * number, 5000, {"loss": 1.9 - number / 4})
        run.record(RunState.RUNNING, now - 4000)


def forget(root: Path) -> None:
    """Take the planted live runs off the live list: no Slurm is here to end them."""
    for mark in (root / ".live").glob("hp-*"):
        if RunDirectory(root, mark.name).request().engine == "slurm":
            mark.unlink()


def _spoil(settings: Config, job_id: str) -> None:
    """What another program could write into Redis."""
    with connect(settings) as redis:
        redis.hset(f"rq:job:{job_id}", "description", EVIL)
        redis.hset(f"rq:job:{job_id}", "meta", json.dumps({"who": EVIL}))
