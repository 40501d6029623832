"""The three ways to run a training on its node: in this process, as a command, one process per GPU.

Of several nodes it is always a child process, so that this one can watch the other nodes. Each way returns
an :class:`Ending`; none raises for user errors.
"""

from __future__ import annotations

import json
import socket
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpcpools import atomic, interpreter
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Request
from hpcpools.runs.states import Cause
from hpcpools.training import imports, nodeenv
from hpcpools.training.child import run_child
from hpcpools.training.context import Cancelled, Run
from hpcpools.training.elastic import NOT_MET
from hpcpools.training.ending import STOPPED_EXIT, Ending, read_rank_ending
from hpcpools.training.group import Group

JOIN = 600  # seconds for all nodes' torch to be imported and to meet


def run(request: Request, run: Run, group: Group, lock: int | None) -> Ending:
    """Run the training on this node, in the way that was asked for."""
    if request.launcher == "elastic":
        return elastic(request, run, group, lock)
    if group.nodes > 1:
        meeting = group.meeting() or {}
        group.stop_listening()  # the port is for the training itself
        nodeenv.publish_group(group.place.index, group.nodes, str(meeting["host"]), int(meeting["port"]))
    elif not request.command:
        return in_process(request, run)
    argv = list(request.command) or interpreter.argv("hpcpools.training.rank")
    return run_child(argv, run, group, lock, forward_term=bool(request.command))


def in_process(request: Request, run: Run) -> Ending:
    """Import the callable and call it here."""
    import importlib
    import inspect

    run.heed_signals()
    sys.path.extend(folder for folder in request.python_path if folder not in sys.path)
    try:
        module, _, name = request.target.partition(":")
        function = getattr(importlib.import_module(module), name)
        wants_run = "run" in inspect.signature(function).parameters
        value = function(**request.arguments, **({"run": run} if wants_run else {}))
    except Cancelled:
        return Ending("stopped", STOPPED_EXIT, cause=Cause.CANCELLED)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if code == 0:
            return _returned(None, run)
        return Ending("failed", code, cause=Cause.USER_ERROR, error=f"SystemExit: {stop.code}")
    except KeyboardInterrupt:
        return Ending("stopped", STOPPED_EXIT, cause=Cause.STOPPED)
    except BaseException as error:
        traceback.print_exc()
        trace = traceback.format_exc()
        if run.stop_signal:  # its helpers (data loaders, peers) got the signal too, and died of it
            return Ending("stopped", STOPPED_EXIT, run.stop_signal, Cause.STOPPED, trace)
        if told := imports.hint(run.path.parent, request, error):
            print(told, file=sys.stderr)
        memory = isinstance(error, MemoryError) or "OutOfMemoryError" in type(error).__name__
        cause = Cause.OUT_OF_MEMORY if memory else Cause.USER_ERROR
        return Ending("failed", 1, cause=cause, error=trace)
    return _returned(value, run)


def _returned(value: Any, run: Run) -> Ending:
    if run.stopped_early:
        return Ending("stopped", STOPPED_EXIT, run.stop_signal or None, Cause.STOPPED)
    try:
        return Ending("completed", result=json.dumps(value))
    except (TypeError, ValueError) as error:
        # A day's training is not thrown away for its return value; it is said, not hidden.
        print(f"hpcpools: the result ({type(value).__name__}) is not JSON: {error}", file=sys.stderr)
        return Ending("completed", result=json.dumps({"not_json": repr(value)[:2000]}))


def elastic(request: Request, run: Run, group: Group, lock: int | None) -> Ending:
    """One process per GPU through torch's elastic launcher."""
    flags = [
        f"--nnodes={group.nodes}",
        f"--nproc-per-node={max(1, request.resources.gpus)}",
        "--max-restarts=0",  # a restart is a new attempt, of all nodes
        "--rdzv-backend=c10d",
        *_meeting_place(group),
        f"--rdzv-id={run.token}-{run.attempt.name}",
        "--signals-to-handle=SIGINT",
    ]
    # With the interpreter named, the ranks are started as we start Python; torchrun's own `-m` imports from
    # the working directory first (SEC-13).
    rank = ["--no-python", *interpreter.argv("hpcpools.training.rank", unbuffered=True)]
    program = rank if request.target else _script(request.command)
    served = [] if group.listening_fd is None else [f"--serve={group.listening_fd}"]
    argv = interpreter.argv("hpcpools.training.elastic", *served, *flags, *program)
    ending = run_child(argv, run, group, lock, forward_term=False)
    if ending.outcome == "failed" and ending.exit_code == NOT_MET:
        return replace(ending, cause=Cause.LAUNCH_FAILURE, error="the nodes did not meet; see the log")
    return ending


def _meeting_place(group: Group) -> list[str]:
    """Where torch's agents meet. Of several nodes only the first listens, on a socket that it has already;
    each tells the others the address from which it reaches the first."""
    if group.nodes == 1:
        return ["--rdzv-endpoint=localhost:0"]
    meeting = group.meeting() or {}
    host, port = str(meeting["host"]), int(meeting["port"])
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as towards:
        towards.connect((host, port))  # sends nothing: asks the kernel for the route
        here = towards.getsockname()[0]
    return [
        f"--rdzv-endpoint={f'[{host}]' if ':' in host else host}:{port}",
        f"--rdzv-conf=is_host=0,join_timeout={JOIN},read_timeout={JOIN}",
        f"--local-addr={here}",
    ]


def as_ranks_told(request: Request, attempt: Path, ending: Ending) -> Ending:
    """The attempt's ending in the words of its ranks; rank 0's value is the result."""
    resources = request.resources
    per_node = max(1, resources.gpus) if request.launcher == "elastic" else 1
    ranks = resources.nodes * per_node
    if not request.target or (request.launcher == "single" and resources.nodes == 1):
        return ending
    told = read_rank_ending(attempt, ranks)
    if told is None:
        return ending
    if told.outcome == "failed" and ending.cause is Cause.OUT_OF_MEMORY:
        return replace(ending, error=f"{told.error}\n{ending.error}")
    taken_along = told.outcome == "failed" and ending.outcome == "killed"
    if taken_along or (told.outcome != "completed" and ending.cause in _NOT_THE_RANKS):
        return ending
    if told.outcome == "completed" and ending.outcome != "completed":
        # gloo and NCCL may abort while the interpreter shuts down; every rank had returned by then.
        print(f"hpcpools: all ranks returned, then one ended badly: {ending.error}", file=sys.stderr)
    return replace(told, signal=ending.signal) if told.outcome == "stopped" else told


# Ends of which the ranks know only the consequences.
_NOT_THE_RANKS = (
    Cause.BAD_NODE,
    Cause.CANCELLED,
    Cause.NODE_FAILURE,
    Cause.OUT_OF_MEMORY,
)


def _script(command: Sequence[str]) -> list[str]:
    """``python [flags] train.py …`` without the interpreter, as torchrun wants it."""
    return list(command[1:])


def launches_python(command: Sequence[str]) -> bool:
    """True for ``python script.py …`` and ``python -m module …``, which torchrun can multiply."""
    if len(command) < 2 or not Path(command[0]).name.startswith("python"):
        return False
    return command[1] == "-m" or command[1].endswith(".py")


def finish(run: RunDirectory, ending: Ending) -> None:
    """Make the result durable; the end marker comes after it."""
    if ending.outcome == "completed":
        atomic.write_bytes(run.result_file, ending.result.encode() + b"\n")
