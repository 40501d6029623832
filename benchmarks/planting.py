"""A site that has been in use for long, made at once: runs on disk as they stay behind, short jobs in Redis.

Owns the mix. The runs' files are written as the product writes them, without fsync; logs and measurements,
which are alike, are hard links. The jobs go through `enqueue_many` and the code that claims and settles them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcpools.config import Config
from hpcpools.runs import directory, sweeps
from hpcpools.runs.request import Code, Request, Resources, encode
from hpcpools.runs.states import Cause, RunState
from hpcpools.runs.sweeps import Definition, SweepFile
from hpcpools.runs.token import new_sweep_id, new_token

DAYS = 200  # over which the runs were submitted
LIVE = 40  # the newest runs; every other one runs, the others wait
SWEEP = 100  # elements; one sweep in a thousand runs
SNAPSHOTS = 20
FINISHED, FAILED = 0.6, 0.02  # of the short jobs; the others wait
# Of twenty runs: how they ended, and why.
ENDS = 13 * [(RunState.COMPLETED, Cause.NONE)] + 4 * [(RunState.FAILED, Cause.USER_ERROR)]
ENDS += [(RunState.TIMEOUT, Cause.TIME_LIMIT), (RunState.CANCELLED, Cause.CANCELLED)]
ENDS += [(RunState.OUT_OF_MEMORY, Cause.OUT_OF_MEMORY)]
FOLDERS = ("submissions", "attempts", "attempts/0.0", "checkpoints", "checkpoints/step-000001000", "submitit")
LINKED = (
    *("environment.json", "metrics.jsonl", "result.json"),
    *("attempts/0.0/environment.json", "attempts/0.0/gpu.jsonl", "attempts/0.0/log.out"),
    *("checkpoints/step-000001000/manifest.json", "checkpoints/step-000001000/model.pt"),
    *("submitit/submission.sh", "submitit/0_0_log.out", "submitit/0_0_log.err"),
)
MOST_LINKS = 30_000  # of one file; ext4 allows 65 000
WRONG = ("ValueError: loss is nan at step {n}", "RuntimeError: CUDA error {n}", "KeyError: 'batch-{n}'")
TASKS = '''from hpcpools import task

@task(queue="evaluation", timeout="1m")
def evaluate(ckpt):
    """As a small evaluation."""
    return {"score": 0.5}
'''


@dataclass(frozen=True)
class Plan:
    """Every run: its token, and its sweep, or ""."""

    config: Config
    now: float
    tokens: tuple[str, ...]
    sweeps: tuple[str, ...]

    def created(self, each: int) -> float:
        """When it was submitted, epoch seconds."""
        return created(self.now, each, len(self.tokens))


def created(now: float, each: int, number: int) -> float:
    """Evenly over the days, but for a few at a rate of a full site."""
    return now - (number - each) * DAYS * 86400 / max(number, 20_000)


def runs(config: Config, number: int) -> list[str]:
    """So many runs, newest last; their tokens."""
    directory.secure_root(config.root)
    now = time.time()
    tokens = tuple(new_token(created(now, each, number)) for each in range(number))
    member = [""] * number
    for first in range(0, number - LIVE - SWEEP, 1000):
        name = new_sweep_id(created(now, first, number))
        definition = Definition("loadtasks:fit", grid={"seed": list(range(SWEEP))})
        sweeps.create(config.root, SweepFile(name, now, definition, tokens[first : first + SWEEP]))
        member[first : first + SWEEP] = [name] * SWEEP
    for each in range(SNAPSHOTS):
        folder = config.root / ".code" / _digest(each)
        folder.mkdir(mode=0o700, parents=True)
        (folder / "loadtasks.py").write_text(TASKS)
    plan = Plan(config, now, tokens, tuple(member))
    parts = os.cpu_count() or 1
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_plant, args=(plan, part, parts)) for part in range(parts)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    return list(tokens)


def _plant(plan: Plan, part: int, parts: int) -> None:
    """Every ``parts``-th run."""
    for count, each in enumerate(range(part, len(plan.tokens), parts)):
        if count % MOST_LINKS == 0:
            masters = _masters(plan.config.folder / "masters" / f"{part}-{count}")
        live = each >= len(plan.tokens) - LIVE
        if live:
            (plan.config.root / ".live" / plan.tokens[each]).touch()
        _run(plan, each, masters, None if not live else each % 2 == 0)


def _masters(folder: Path) -> dict[str, Path]:
    """What is alike in all runs: measurements of an hour, a hundred lines of metrics, a short log."""
    gpus = [{"gpu": str(gpu), "util": 93, "memory": 71234, "power": 512.5} for gpu in range(4)]
    content: dict[str, Any] = {
        "environment.json": {"packages": {f"package-{each}": "1.2.3" for each in range(200)}},
        "result.json": {"loss": 0.01},
        "manifest.json": {
            "step": 1000,
            "at": 0.0,
            "metrics": {"loss": 0.01},
            "files": {"model.pt": "0" * 64},
        },
        "gpu.jsonl": [
            {"at": 20.0 * each, "used": 60.0 * each, "step": each, "verdict": "", "gpus": gpus}
            for each in range(180)
        ],
        "metrics.jsonl": [
            {"at": 30.0 * each, "step": 10 * each, "total": 1000, "loss": 1 / (each + 1), "lr": 0.001}
            for each in range(101)
        ],
    }
    folder.mkdir(parents=True)
    found = {}
    for name in LINKED:
        base = name.rpartition("/")[2]
        found[name] = folder / name.replace("/", "-")
        value = content.get(base, f"{base}\n" * 50)
        lines = value if isinstance(value, list) else [value]
        text = value if isinstance(value, str) else "".join(json.dumps(line) + "\n" for line in lines)
        found[name].write_text("" if base.endswith("log.err") else text)
    return found


def _run(plan: Plan, each: int, masters: dict[str, Path], runs_now: bool | None) -> None:
    """``runs_now``: None if it has ended, else whether it runs or waits."""
    at, token = plan.created(each), plan.tokens[each]
    begun, ended = at + 60, at + 660 + each % 50 * 60
    state, cause = ENDS[each % len(ENDS)]
    request = Request(
        token,
        at,
        "slurm",
        Resources(gpus=4, partition="gpu"),
        target="loadtasks:fit",
        arguments={"seed": each},
        label="" if plan.sweeps[each] else f"run-{each}",
        sweep=plan.sweeps[each],
        code=Code(_digest(each), "/home/u/project", 1, 200),
        user="u",
        host="login1",
    )
    job = {"job_id": str(each), "cluster": ""}
    files: dict[str, Any] = {"submissions/0.json": {"at": at}, "submissions/0.job.json": {**job, "at": at}}
    events = [{"at": at, "state": "SUBMITTING"}, {"at": at + 1, "state": "PENDING", "of": 0}]
    if runs_now is not False:
        node = {"node": f"gpu-{each % 64:03d}", "nodelist": "", "pid": 1, "pid_start": 1, "boot": "b"}
        files["submissions/0.owner.json"] = job
        files["attempts/0.0/start.json"] = {**job, **node, "at": begun}
        events.append({"at": begun, "state": "RUNNING", "of": 0})
    if runs_now is None:
        end: dict[str, Any] = {"outcome": "completed", "at": ended, "exit_code": 0}
        if state is RunState.FAILED:
            error = _trace(each)
            end |= {"outcome": "failed", "exit_code": 1, "cause": cause.value, "error": error}
        elif state is not RunState.COMPLETED:
            end |= {"outcome": "killed", "exit_code": 15}
        files["attempts/0.0/end.json"] = end
        files["verdict.json"] = {"at": ended, "state": state.value, "cause": cause.value, "retryable": False}
        events.append({"at": ended, "state": state.value, "cause": cause.value, "of": 0})
    folder = str(plan.config.root / token)
    for name in ("", *FOLDERS):
        os.mkdir(f"{folder}/{name}", 0o700)  # noqa: PTH102 - a Path costs as much as the folder
    _write(f"{folder}/run.json", encode(request))
    _write(f"{folder}/events.jsonl", "".join(json.dumps(event) + "\n" for event in events).encode())
    for name, facts in files.items():
        _write(f"{folder}/{name}", json.dumps(facts).encode())
    for name in LINKED:
        os.link(masters[name], f"{folder}/{name}")
    if runs_now is None:
        for path in (folder, f"{folder}/events.jsonl"):
            os.utime(path, (ended, ended))


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(fd, data)
    os.close(fd)


def _digest(each: int) -> str:
    return f"{each % SNAPSHOTS:064x}"


def _trace(each: int) -> str:
    frame = f'  File "/home/u/project/tasks.py", line {each % 90}, in fit\n    step(batch)\n'
    return f"Traceback (most recent call last):\n{frame}{WRONG[each % len(WRONG)].format(n=each)}"


def jobs(config: Config, number: int) -> None:
    """So many short jobs: most have finished, some failed, the others wait."""
    from hpcpools.eventlog import log
    from hpcpools.short.board import Work
    from hpcpools.short.enqueue import Client
    from hpcpools.short.finish import Steps, Success
    from hpcpools.short.job import bind
    from hpcpools.short.options import JobOptions
    from hpcpools.short.worker import HpcWorker, new_execution_id

    log.setLevel("ERROR")  # a line per failure otherwise
    client = Client(config)
    entry = client.catalog.short("loadtasks:evaluate")
    for first in range(0, number, 5000):
        many = [{"ckpt": f"step-{each}.pt"} for each in range(first, min(number, first + 5000))]
        client.send_many(entry, many, JobOptions())
    worker = HpcWorker("load-1", connection=client.connection, job_class=bind(config, client.catalog))
    steps, queues = Steps(client.connection, worker.name), [entry.queue]
    for each in range(int(number * FAILED)):
        claim = steps.claim(new_execution_id(), queues)
        assert claim is not None
        work = Work(claim.queue, claim.job_id, claim.execution_id)
        worker.fail(work, WRONG[each % len(WRONG)].format(n=each), _trace(each))
    claim = steps.claim(new_execution_id(), queues)
    for left in range(int(number * FINISHED), 0, -1):
        assert claim is not None
        success = Success.of(claim, b'{"score":0.5}', 86400)
        _, claim = steps.finish(success, new_execution_id(), queues, go_on=left > 1)
