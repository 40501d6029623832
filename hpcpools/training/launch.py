"""The three ways to run a training on its node: in this process, as a command, one process per GPU.

Owns the child's signals and its end. Each way returns an :class:`Ending`; none raises for user errors.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpcpools import atomic
from hpcpools.runs.attempts import Outcome
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Request
from hpcpools.runs.states import Cause
from hpcpools.training import imports, nodeenv
from hpcpools.training.context import Cancelled, Run

STOPPED_EXIT = 75  # EX_TEMPFAIL: stopped early, resumable; commands may use it too
CHILD_GRACE = 20.0  # seconds a child has after TERM when the run was cancelled


@dataclass(frozen=True)
class Ending:
    """How a training ended; ``result`` is the text of a JSON value."""

    outcome: Outcome
    exit_code: int = 0
    signal: int | None = None
    cause: Cause = Cause.NONE
    error: str = ""
    result: str = "null"


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


def as_command(request: Request, run: Run, lock: int | None) -> Ending:
    """Run the user's command line as a child."""
    return _child(list(request.command), run, lock, forward_term=True)


def elastic(request: Request, run: Run, lock: int | None) -> Ending:
    """One process per GPU through torch's elastic launcher; rank 0's value is the result."""
    flags = ["--nnodes=1", f"--nproc-per-node={max(1, request.resources.gpus)}", "--max-restarts=0"]
    flags += [
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:0",
        f"--rdzv-id={run.token}",
        "--signals-to-handle=SIGINT",
    ]
    if request.target:
        program = ["-m", "hpcpools.training.rank"]
    else:
        program = _script(request.command)
    argv = [sys.executable, "-m", "hpcpools.training.elastic", *flags, *program]
    ending = _child(argv, run, lock, forward_term=False)
    if not request.target:
        return ending
    told = read_rank_ending(run.attempt, max(1, request.resources.gpus))
    if told is None:
        return ending
    if told.outcome == "completed" and ending.outcome != "completed":
        # gloo and NCCL may abort while the interpreter shuts down; every rank had returned by then.
        print(f"hpcpools: all ranks returned, then one ended badly: {ending.error}", file=sys.stderr)
    return replace(told, signal=ending.signal) if told.outcome == "stopped" else told


def _script(command: Sequence[str]) -> list[str]:
    """``python [flags] train.py …`` without the interpreter, as torchrun wants it."""
    return list(command[1:])


def launches_python(command: Sequence[str]) -> bool:
    """True for ``python script.py …`` and ``python -m module …``, which torchrun can multiply."""
    if len(command) < 2 or not Path(command[0]).name.startswith("python"):
        return False
    return command[1] == "-m" or command[1].endswith(".py")


def write_rank_ending(attempt: Path, rank: int, ending: Ending) -> None:
    """A rank's own account of its end, for the entry process."""
    atomic.write_json(attempt / f"rank-{rank}.json", {**vars(ending), "cause": ending.cause.value})


def read_rank_ending(attempt: Path, ranks: int) -> Ending | None:
    """The first failed rank's account, else rank 0's; None unless all ``ranks`` left theirs."""
    found: dict[int, Ending] = {}
    for path in attempt.glob("rank-*.json"):
        facts = atomic.read_json(path)
        if facts is not None:
            facts["cause"] = Cause(facts["cause"])
            found[int(path.stem.removeprefix("rank-"))] = Ending(**facts)
    failed = [found[rank] for rank in sorted(found) if found[rank].outcome == "failed"]
    return failed[0] if failed else found.get(0) if len(found) == ranks else None


def _child(argv: list[str], run: Run, lock: int | None, *, forward_term: bool) -> Ending:
    """Start ``argv``, pass warnings on as the stop file (and TERM), wait for the end."""
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda received, _frame: signals.append(received))
    try:
        child = subprocess.Popen(
            argv,
            env=nodeenv.child_environment(),
            preexec_fn=_prepare_child,  # noqa: PLW1509 - the entry has no threads
            pass_fds=() if lock is None else (lock,),
        )
    except OSError as error:
        return Ending("failed", 127, cause=Cause.USER_ERROR, error=f"{argv[0]}: {error.strerror}")
    kill_at: float | None = None
    warned = 0  # USR2 if it ever came, else TERM: what told us to stop
    while True:
        try:
            code = child.wait(timeout=0.2)
            break
        except subprocess.TimeoutExpired:
            pass
        except KeyboardInterrupt:
            signals.append(signal.SIGTERM)
        cancelled = (run.path / "cancel.json").exists() if signals else False
        if signals:
            atomic.create_bytes(run.attempt / "stop", b"")
            warned = signal.SIGUSR2 if signal.SIGUSR2 in (warned, *signals) else signal.SIGTERM
        if signal.SIGTERM in signals and (forward_term or cancelled):
            child.send_signal(signal.SIGTERM if forward_term else signal.SIGINT)
            kill_at = kill_at or (time.monotonic() + CHILD_GRACE if cancelled else None)
        signals.clear()
        if kill_at is not None and time.monotonic() > kill_at:
            child.kill()
    if -code in (signal.SIGTERM, signal.SIGKILL):
        # Slurm signals all processes of a step at once: our own signal may be a moment behind.
        give_up = time.monotonic() + 1.0
        while not (signals or warned) and time.monotonic() < give_up:
            time.sleep(0.05)
    warned = warned or (signals[0] if signals else 0)
    if code == STOPPED_EXIT and not warned and (run.attempt / "stop").exists():  # the sampler's verdict
        return Ending("stopped", STOPPED_EXIT, cause=Cause.STOPPED)
    return _ended(code, argv[0], cancelled=(run.path / "cancel.json").exists(), warned=warned)


def _ended(code: int, program: str, *, cancelled: bool, warned: int) -> Ending:
    """What a child's return code means; negative is the signal that ended it. Pure."""
    if code == 0:
        return Ending("completed")
    if cancelled:
        return Ending("stopped", STOPPED_EXIT, cause=Cause.CANCELLED)
    if warned:
        return Ending("stopped", STOPPED_EXIT, warned, Cause.STOPPED)
    if code > 0:
        return Ending("failed", code, cause=Cause.USER_ERROR, error=f"exit code {code}")
    error = f"{Path(program).name} was killed by {signal.Signals(-code).name}"
    outcome: Outcome = "killed" if -code in (signal.SIGTERM, signal.SIGKILL) else "failed"
    return Ending(outcome, 128 - code, -code, Cause.KILLED, error)


def _prepare_child() -> None:
    """Between fork and exec: die with the entry; leave the warning signal to the entry."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, prctl(2)
    if os.getppid() == 1:
        os._exit(1)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def finish(run: RunDirectory, ending: Ending) -> None:
    """Make the result durable; the end marker comes after it."""
    if ending.outcome == "completed":
        atomic.write_bytes(run.result_file, ending.result.encode() + b"\n")
