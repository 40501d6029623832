"""The entry on the node: one process per attempt, started by srun or by submitit's local controller.

Owns the order: check the payload, claim, redirect the logs, resume, run, result, end marker. It opens no
Redis and runs no Slurm command. Exit code: the training's own; 0 for the loser of a double start.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from pathlib import Path

import msgspec

from hpcpools.errors import HpcpoolsError, PermissionsError
from hpcpools.runs import attempts, checkpoints
from hpcpools.runs.directory import RunDirectory, check_owned
from hpcpools.runs.request import Request, decode, digest
from hpcpools.runs.states import Cause
from hpcpools.training import imports, launch, machine, nodeenv, preflight, requeue, sampler
from hpcpools.training.context import Run
from hpcpools.training.launch import Ending


def main(argv: list[str] | None = None) -> int:
    """``python -m hpcpools.training.node RUN_DIR SUBMISSION SHA256_OF_RUN_JSON``."""
    path, submission, wanted = argv or sys.argv[1:]
    os.umask(0o077)
    try:
        directory = RunDirectory(Path(path).parent, Path(path).name)
        request = _payload(directory, wanted)
        return _run(directory, request, int(submission))
    except HpcpoolsError as error:
        print(f"hpcpools: {error}", file=sys.stderr)
        return error.exit_code


def _payload(directory: RunDirectory, wanted: str) -> Request:
    """``run.json``, if it is ours alone and the one that was submitted (SEC-6)."""
    check_owned(directory.path)
    check_owned(directory.run_file)
    data = directory.run_file.read_bytes()
    if digest(data) != wanted:
        raise PermissionsError(
            f"{directory.run_file}: payload hash mismatch",
            hint="it was changed after submission; submit again",
        )
    return decode(data)


def _run(directory: RunDirectory, request: Request, submission: int) -> int:
    lock = _lock_machine(request.host_lock)
    place = nodeenv.place()
    folder = attempts.claim(directory, submission, place, time.time())
    if folder is None:
        print(f"hpcpools: {directory.token} is cancelled, superseded or already started; nothing to do")
        return 0
    _redirect(folder)
    began = time.time()
    refused: Ending | None = None
    try:
        refused = requeue.hopeless(directory, request) or preflight.run(directory, request, folder, place)
        with contextlib.nullcontext() if refused else sampler.beside(directory, request, folder):
            ending = refused or _train(
                directory, _as_submitted(directory, request, submission), folder, place.restart, lock
            )
        launch.finish(directory, ending)
    except BaseException as error:  # ours, not the user's: say so, and still leave a marker
        ending = Ending("failed", 70, cause=Cause.LAUNCH_FAILURE, error=f"{type(error).__name__}: {error}")
    sys.stdout.flush()
    sys.stderr.flush()
    again = requeue.wanted(directory, request, ending, began, time.time())
    attempts.end(
        folder,
        ending.outcome,
        time.time(),
        exit_code=ending.exit_code,
        signal=ending.signal,
        cause=ending.cause,
        error=ending.error,
        requeued=again,
    )
    if again:
        requeue.ask(place.job_id)
    elif refused is None and ending.outcome in ("completed", "failed"):
        preflight.again(directory, request, folder, place)
    return ending.exit_code


def _as_submitted(directory: RunDirectory, request: Request, submission: int) -> Request:
    """The request with what this submission changed (a smaller problem after running out of memory)."""
    changed = directory.submission(submission).get("arguments")
    return msgspec.structs.replace(request, arguments=changed) if changed else request


def _train(directory: RunDirectory, request: Request, folder: Path, restart: int, lock: int | None) -> Ending:
    checkpoints.clear_unfinished(directory.checkpoints)
    newest = checkpoints.newest_valid(directory.checkpoints)
    nodeenv.publish(directory.path, folder, directory.token, str(newest.path) if newest else "", restart)
    machine.record(request, folder, nodeenv.process_start(os.getpid()))
    if refusal := imports.refusal(directory, request):
        return Ending("failed", 77, cause=Cause.USER_ERROR, error=refusal)
    imports.publish(directory, request)
    run = Run(directory.path, folder)
    try:
        os.chdir(request.workdir)
    except OSError as error:
        return Ending("failed", 73, cause=Cause.LAUNCH_FAILURE, error=f"{request.workdir}: {error.strerror}")
    if request.launcher == "elastic":
        return launch.elastic(request, run, lock)
    if request.command:
        return launch.as_command(request, run, lock)
    return launch.in_process(request, run)


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
