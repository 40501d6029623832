"""The entry on the node: one process per attempt and node, started by srun or by submitit's local controller.

Owns the order: check the payload, claim, redirect the logs, resume, run, result, end marker. Of several nodes
only the first claims, names the end and asks for a requeue. It opens no Redis and runs no Slurm command but
that. Exit code: the training's own; 0 for the loser of a double start.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from functools import partial
from pathlib import Path

from hpcpools import atomic
from hpcpools.errors import HpcpoolsError, PermissionsError
from hpcpools.runs import attempts, checkpoints
from hpcpools.runs.directory import RunDirectory, check_owned
from hpcpools.runs.request import Request, decode, digest
from hpcpools.runs.states import Cause
from hpcpools.training import imports, launch, machine, nodeenv, oom, preflight, requeue, sampler
from hpcpools.training.context import Run
from hpcpools.training.ending import Ending
from hpcpools.training.group import Group, join


def main(argv: list[str] | None = None) -> int:
    """``python -m hpcpools.training.node RUN_DIR SUBMISSION SHA256_OF_RUN_JSON``."""
    path, submission, wanted = argv or sys.argv[1:]
    os.umask(0o077)
    try:
        directory = RunDirectory(Path(path).parent, Path(path).name)
        check_owned(directory.path)
        try:
            request = _payload(directory, wanted)
        except PermissionsError as error:
            _refuse(directory, int(submission), error)
            raise
        with nodeenv.private_temp():
            return _run(directory, request, int(submission))
    except HpcpoolsError as error:
        print(f"hpcpools: {error}", file=sys.stderr)
        return error.exit_code


def _payload(directory: RunDirectory, wanted: str) -> Request:
    """``run.json``, if it is ours alone and the one that was submitted (SEC-6)."""
    check_owned(directory.run_file)
    data = atomic.read_bytes(directory.run_file)
    if digest(data) != wanted:
        raise PermissionsError(
            f"{directory.run_file}: payload hash mismatch",
            hint="it was changed after submission; submit again",
        )
    return decode(data)


def _refuse(directory: RunDirectory, submission: int, error: PermissionsError) -> None:
    """End the run for good: another submission would take the changed file for what is wanted."""
    place = nodeenv.place()
    attempt = None if place.index else attempts.claim(directory, submission, place, time.time())
    if attempt is not None:
        attempts.end(
            attempt, "failed", time.time(), exit_code=77, cause=Cause.USER_ERROR, error=error.message
        )


def _run(directory: RunDirectory, request: Request, submission: int) -> int:
    lock = _lock_machine(request.host_lock)
    place = nodeenv.place()
    if place.index:
        attempt = join(directory, submission, place)
    else:
        attempt = attempts.claim(directory, submission, place, time.time())
    if attempt is None:
        print(f"hpcpools: {directory.token} is cancelled, superseded or already started; nothing to do")
        return 0
    group = Group(attempt, place, request.resources.nodes)
    folder = group.folder
    _redirect(folder)
    began = time.time()
    refused: Ending | None = None
    try:
        refused = requeue.hopeless(directory, request) if group.first else None
        refused = refused or preflight.run(directory, request, folder, place)
        with contextlib.nullcontext() if refused else sampler.beside(directory, request, folder):
            killed = oom.kills()
            asked = attempts.as_submitted(directory, request, submission)
            ending = refused or _train(directory, asked, group, lock)
            ending = oom.blame(ending, killed)
    except BaseException as error:  # ours, not the user's: say so, and still leave a marker
        ending = _our_fault(error)
    try:
        ending = group.outcome(ending)
        if group.first:
            ending = launch.as_ranks_told(request, attempt, ending)
            launch.finish(directory, ending)
    except BaseException as error:
        ending = _our_fault(error)
    sys.stdout.flush()
    sys.stderr.flush()
    if group.first:
        _end(directory, request, group, ending, began)
    if refused is None and ending.outcome in ("completed", "failed"):
        preflight.again(directory, request, folder, place)
    return ending.exit_code


def _end(directory: RunDirectory, request: Request, group: Group, ending: Ending, began: float) -> None:
    """The attempt's end marker, and the request for another start."""
    again = requeue.wanted(directory, request, ending, began, time.time())
    attempts.end(
        group.attempt,
        ending.outcome,
        time.time(),
        exit_code=ending.exit_code,
        signal=ending.signal,
        cause=ending.cause,
        error=ending.error,
        requeued=again,
    )
    if again:
        requeue.ask(group.place.job_id)


def _our_fault(error: BaseException) -> Ending:
    return Ending("failed", 70, cause=Cause.LAUNCH_FAILURE, error=f"{type(error).__name__}: {error}")


def _newest(directory: RunDirectory) -> str:
    """The checkpoint to resume from; "" if there is none."""
    checkpoints.clear_unfinished(directory.checkpoints)
    newest = checkpoints.newest_valid(directory.checkpoints)
    return str(newest.path) if newest else ""


def _train(directory: RunDirectory, request: Request, group: Group, lock: int | None) -> Ending:
    machine.record(request, group.folder, nodeenv.process_start(os.getpid()))
    if refusal := imports.refusal(directory, request):
        return Ending("failed", 77, cause=Cause.USER_ERROR, error=refusal)
    if broken := group.assemble(partial(_newest, directory), directory.cancelled):
        return broken
    place = group.place
    nodeenv.publish(directory.path, group.attempt, directory.token, group.resume, place.restart)
    imports.publish(directory, request)
    run = Run(directory.path, group.attempt)
    try:
        os.chdir(request.workdir)
    except OSError as error:
        return Ending("failed", 73, cause=Cause.LAUNCH_FAILURE, error=f"{request.workdir}: {error.strerror}")
    return launch.run(request, run, group, lock)


def _redirect(folder: Path) -> None:
    """From here on everything printed, also by C code and children, goes to this attempt's own logs."""
    sys.stdout.flush()
    sys.stderr.flush()
    for name, number in (("log.out", 1), ("log.err", 2)):
        fd = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        os.dup2(fd, number)
        os.close(fd)


def _lock_machine(lock_file: str) -> int | None:
    """Without Slurm, hold this machine's one training slot until the last of our processes is gone."""
    if not lock_file:
        return None
    fd = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


if __name__ == "__main__":
    sys.exit(main())
