"""Continuous evaluation: each new complete checkpoint of a run is given to a short task exactly once.

Owns ``<run>/evaluations/`` and ``<root>/.evaluations/``. Only reads what the training wrote; a broken
evaluation is a failed evaluation and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from dataclasses import dataclass
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from hpcpools import atomic, catalog
from hpcpools.catalog import Entry
from hpcpools.config import Config
from hpcpools.errors import ConfigError, HpcpoolsError, RedisUnavailableError
from hpcpools.pipeline.call import Call
from hpcpools.pipeline.stageruns import is_settled
from hpcpools.runs import checkpoints, directory
from hpcpools.runs.checkpoints import Checkpoint
from hpcpools.runs.directory import RunDirectory, check_owned
from hpcpools.runs.view import read_view
from hpcpools.textsafe import one_line

_SUBMIT = ".submit.json"


@dataclass(frozen=True)
class Evaluation:
    """One checkpoint's evaluation. ``ended``: "" while it waits or runs, completed, failed, cancelled."""

    step: int
    task: str
    job_id: str
    ended: str
    result: Any
    reason: str


def scan(config: Config, now: float | None = None) -> dict[str, Any]:
    """One look at all runs that may have new checkpoints. Idempotent, and safe to run many times at once.

    Looks at runs that are live or ended since the first scan, until all their checkpoints are evaluated.
    """
    if not config.continuous_evaluation or not config.root.is_dir():
        return {}
    try:
        table = pairs(config)
    except ConfigError as error:  # said here: a failed upkeep job every ten seconds would bury it
        return {"waiting": 0, "runs": 0, "problems": [str(error)]}
    marks = config.root / ".evaluations"
    with contextlib.suppress(FileExistsError):
        marks.mkdir(mode=0o700)
    check_owned(marks)
    atomic.create_json(marks / "since.json", {"at": time.time() if now is None else now})
    since = float((atomic.read_json(marks / "since.json") or {}).get("at", 0.0))
    live = set(directory.live_tokens(config.root))
    closed = set(os.listdir(marks)) - live
    found = {"waiting": 0, "runs": 0}
    problems = []
    for token in directory.tokens(config.root):
        if token in closed:
            continue
        run = RunDirectory(config.root, token)
        try:
            waiting = _scan_run(config, run, table, since, live)
        except RedisUnavailableError as error:
            problems.append(error.message)
            break
        except (HpcpoolsError, OSError, ValueError, KeyError) as error:
            problems.append(one_line(f"{token}: {error}"))
            continue
        if waiting is None:
            atomic.create_bytes(marks / token, b"")
        else:
            found["runs"] += 1
            found["waiting"] += waiting
    return {**found, "problems": problems[:20]}


def pairs(config: Config) -> dict[str, Entry]:
    """For each training, the short task that evaluates its checkpoints. Raises ConfigError."""
    listed = catalog.load(config)
    found = {}
    for training, task in config.continuous_evaluation.items():
        try:
            found[training] = listed.short(task)
            catalog.check_arguments(found[training], _arguments(found[training], "", 0))
            catalog.destination(config, found[training])
        except HpcpoolsError as error:
            raise ConfigError(
                f"{config.file}: continuous_evaluation.{training!r} = {task!r}: {error.message}",
                hint=error.hint or "the task takes checkpoint=PATH, and step=NUMBER if it wants",
            ) from None
    return found


def read(run: RunDirectory) -> list[Evaluation]:
    """All evaluations of a run by its files, in the order of steps."""
    found = []
    for file in _folder(run).glob(f"*{_SUBMIT}"):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            facts, call = atomic.read_json(file), _call(file)
            done = atomic.read_json(call.done) or {}
            found.append(
                Evaluation(
                    int(facts["step"]),  # type: ignore[index]
                    str(facts["task"]),  # type: ignore[index]
                    call.job_id,
                    str(done.get("ended", "")),
                    done.get("result"),
                    one_line(str(done.get("reason", ""))),
                )
            )
    return sorted(found, key=lambda each: (each.step, each.job_id))


def needed(config: Config, run: RunDirectory, found: list[Checkpoint]) -> set[int]:
    """The steps whose evaluation has not ended, which cleanup must not remove yet."""
    task = config.continuous_evaluation.get(run.request().target)
    if task is None or (config.root / ".evaluations" / run.token).exists():
        return set()
    return {
        checkpoint.step
        for checkpoint in found
        if not _call(_folder(run) / f"{key(run.token, checkpoint, task)}{_SUBMIT}").done.exists()
    }


def key(token: str, checkpoint: Checkpoint, task: str) -> str:
    """The name of an evaluation: the run, the checkpoint's content, the task. Pure."""
    facts = [token, checkpoint.step, sorted(checkpoint.files.items()), task]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _scan_run(
    config: Config, run: RunDirectory, table: dict[str, Entry], since: float, live: set[str]
) -> int | None:
    """How many evaluations have not ended; None if nothing more will come of this run."""
    if not run.run_file.exists():
        return 0
    entry = table.get(run.request().target)
    if entry is None:
        return None if run.token not in live else 0
    view = read_view(run)  # before the checkpoints: what a final run wrote is all there
    final = is_settled(config.root, view)
    if final and view.since < since:
        return None
    folder = _folder(run)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    check_owned(folder)
    for checkpoint in checkpoints.complete(run.checkpoints):
        call = _call(folder / f"{key(run.token, checkpoint, entry.name)}{_SUBMIT}")
        if not call.submit.exists():
            arguments = _arguments(entry, str(checkpoint.path), checkpoint.step)
            call.write(entry, config, arguments, step=checkpoint.step)
    names = set(os.listdir(folder))
    calls = [_call(folder / name) for name in sorted(names) if name.endswith(_SUBMIT)]
    waiting = sum(call.look(config) is None for call in calls if call.done.name not in names)
    return None if final and not waiting else waiting


def _arguments(entry: Entry, path: str, step: int) -> dict[str, Any]:
    wanted = signature(entry.function).parameters.values()
    takes_step = any(each.name == "step" or each.kind is Parameter.VAR_KEYWORD for each in wanted)
    return {"checkpoint": path, **({"step": step} if takes_step else {})}


def _folder(run: RunDirectory) -> Path:
    return run.path / "evaluations"


def _call(file: Path) -> Call:
    return Call(file, f"evaluation-{file.name.removesuffix(_SUBMIT)}")
