"""A pool with something in every pane: planted runs, a real Redis with real workers, and hostile names."""

from __future__ import annotations

import time
from pathlib import Path

from hpcpools.runs import directory, nodes, telemetry
from hpcpools.runs.attempts import Place, claim, end
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.metrics import log
from hpcpools.runs.request import Engine, Request, Resources
from hpcpools.runs.states import Cause, RunState
from hpcpools.runs.token import new_token

CAUSES = {RunState.COMPLETED: Cause.NONE, RunState.TIMEOUT: Cause.TIME_LIMIT}
EVIL = "[bold red]evil[/] [@click=app.quit]x[/]\x1b[31m\x1b]0;title\x07\u202e [/"


def plant(
    root: Path,
    label: str,
    state: RunState = RunState.COMPLETED,
    *,
    age: float = 3600.0,
    gpus: int = 4,
    engine: Engine = "slurm",
) -> RunDirectory:
    """A run on a node of its own, in a state since half its age."""
    now = time.time()
    at = now - age
    resources = Resources(gpus=gpus, partition="gpu", minutes=600)
    run = directory.create(
        root, Request(new_token(at), at, engine, resources, target="train:fit", label=label, user="me")
    )
    number = run.next_submission(at)
    assert number is not None
    job = str(4000 + int(age) % 1000)
    run.submitted(number, job, "", at)
    run.record(RunState.PENDING, at + 1, job_id=job, reason="" if state.is_final else "Priority")
    if state is RunState.PENDING:
        return run
    folder = claim(run, 0, Place("lab", job, 0, f"gpu-{int(age) % 90:02d}", 1, 1, "b"), at + age / 4)
    assert folder is not None
    (folder / "log.out").write_text(
        "".join(f"step {n} of {label}, loss {2 / (1 + n):.4f}\n" for n in range(40))
    )
    for step in range(1, 41 if state.is_final else 28):
        log(run.metrics_file, at + age / 4 + step, step * 25, 1000, {"loss": 2 / step})
    telemetry.append(folder, now - 5, 3600.0, 1000, "", [{"util": 91 - n * 4} for n in range(gpus)])
    if state.is_final:
        cause = CAUSES.get(state, Cause.USER_ERROR)
        end(
            folder,
            "completed" if state is RunState.COMPLETED else "failed",
            at + age / 2,
            cause=cause,
            error=EVIL,
        )
        run.record(state, at + age / 2, cause=cause.value, reason="" if state is RunState.COMPLETED else EVIL)
    else:
        run.record(RunState.RUNNING, at + age / 4, job_id=job)
    return run


def plant_all(root: Path) -> dict[str, str]:
    """Some runs of each kind; label → token."""
    runs = {
        label: plant(root, label, state, age=age).token
        for label, state, age in (
            ("digits-baseline", RunState.COMPLETED, 90000.0),
            ("resnet50-sgd", RunState.COMPLETED, 40000.0),
            ("vit-small lr=3e-4", RunState.FAILED, 30011.0),
            (EVIL, RunState.FAILED, 20023.0),
            ("resnet50-adam", RunState.TIMEOUT, 10007.0),
            ("llama-finetune", RunState.RUNNING, 7260.0),
            ("llama-finetune-2", RunState.RUNNING, 5431.0),
            ("distill-tiny", RunState.PENDING, 610.0),
            ("distill-base", RunState.PENDING, 300.0),
        )
    }
    now = time.time()
    for number in range(2):
        facts = {"check": "GPU-7", "level": "FAIL", "value": EVIL, "gpu": "3", "uuid": "GPU-5d1c"}
        evidence = {"at": now - 900 - number, "verdict": "FAIL", "findings": [facts]}
        nodes.record_failure(root, "gpu-17", new_token(now - 900 - number), evidence)
    return runs
