"""A run repeated: the same request from the same code, as a new run that names the one it repeats.

Owns what of a request is carried over. Refuses a run whose code snapshot is gone or damaged.
"""

from __future__ import annotations

import os
import socket
import sys
import time

from msgspec.structs import replace

import hpcpools
from hpcpools import gpu
from hpcpools.account import user
from hpcpools.config import Config
from hpcpools.errors import NotFoundError
from hpcpools.runs import code
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Code, Request
from hpcpools.runs.token import new_token
from hpcpools.training import engine, environment, plan


def request_again(config: Config, run: RunDirectory, on: engine.On = "auto") -> tuple[Request, list[str]]:
    """The request of the repetition, and a line for each thing that will not be as it was.

    ``on`` auto: the engine the run had. Raises NotFoundError if its code is not there any more, unchanged,
    and SlurmUnavailableError.
    """
    old = run.request()
    if old.code is not None and not code.intact(config.root, old.code.digest):
        raise NotFoundError(
            f"the code snapshot of {run.token} is gone or was changed",
            hint=f"it should lie in {code.folder(config.root, old.code.digest)}",
        )
    if old.code is not None:
        os.utime(code.folder(config.root, old.code.digest))  # in use again: `gc` leaves it alone
    where = engine.choose(config, old.engine if on == "auto" else on)
    resources = old.resources
    notes = []
    if old.code is None:
        notes.append("it ran without a code snapshot: the files that are there now will run")
    if where != old.engine:
        notes.append(f"engine: {old.engine} then, {where} now")
    if where == "local" and (here := gpu.count()) < resources.gpus:
        notes.append(f"gpus: {resources.gpus} then, {here} now")
        resources = replace(resources, gpus=here)
    if where == "local" and resources.nodes > 1:
        notes.append(f"nodes: {resources.nodes} then, this machine now")
        resources = replace(resources, nodes=1)
    now = time.time()
    again = replace(
        old if old.code is None else _here(old, old.code, config),
        token=new_token(now),
        created=now,
        engine=where,
        resources=resources,
        reproduces=run.token,
        sweep="",
        python=sys.executable,
        host_lock=str(plan.slot_lock(config)) if where == "local" else "",
        user=user(),
        host=socket.gethostname(),
        version=hpcpools.__version__,
    )
    then = environment.read(run)
    if then is None:
        notes.append("its environment was not recorded: nothing to compare")
    else:
        notes += environment.differences(then, environment.here(config, old.workdir))
    return again, notes


def _here(old: Request, facts: Code, config: Config) -> Request:
    """The request with the snapshot where it is now: the folder of the runs may have moved since."""
    place = code.folder(config.root, facts.digest)
    inside = f"/{place.parent.name}/{place.name}"

    def moved(text: str) -> str:
        _, found, tail = text.partition(inside)
        return f"{place}{tail}" if found else text

    return replace(
        old,
        python_path=tuple(moved(folder) for folder in old.python_path),
        command=tuple(moved(word) for word in old.command),
        workdir=moved(old.workdir),
    )
