"""One reading in a process of its own, so that a driver that hangs costs seconds, not the job.

The child names each NVML call before it makes it; the parent gives up on the call that does not return,
kills the child and does not wait for it: a process stuck in a driver cannot be killed.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping

import msgspec

from hpcpools import interpreter
from hpcpools.gpu.reading import NodeReading

START = 60.0  # seconds for Python itself: a slow file system is no fault of the GPUs
# Killed by one of these inside NVML: the driver's fault. Any other end is ours.
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)


def read(
    granted: tuple[str, ...],
    since: int,
    *,
    call_timeout: float,
    total_timeout: float,
    env: Mapping[str, str],
) -> NodeReading:
    """A reading within ``total_timeout`` seconds, and at most ``call_timeout`` for one call.

    ``granted``: the GPUs as Slurm named them, empty for all; ``since``: see ``processes.asker``; ``env``:
    the child's environment. Never raises for what NVML or the child does.
    """
    argv = interpreter.argv("hpcpools.gpu.probe", str(since), *granted)
    try:
        child = subprocess.Popen(
            argv, env=dict(env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
        )
    except OSError as error:
        return NodeReading("not started", str(error))
    try:
        return _listen(child, call_timeout, total_timeout)
    finally:
        _leave(child)


def _listen(child: subprocess.Popen[bytes], call_timeout: float, total_timeout: float) -> NodeReading:
    assert child.stdout is not None  # noqa: S101 - Popen was given a pipe
    pipe = child.stdout.fileno()
    now = time.monotonic()
    call, limit, end = "", now + START, now + START + total_timeout
    text = b""
    while True:
        ready, _, _ = select.select([pipe], [], [], max(0.0, min(limit, end) - time.monotonic()))
        if not ready:
            if not call:
                return NodeReading("not started", f"the reading did not start within {START:.0f} s")
            waited = call_timeout if limit < end else total_timeout
            return NodeReading("hung", f"{call} did not return within {waited:g} s")
        piece = os.read(pipe, 65536)
        if not piece:
            return _died(child, call)
        *lines, text = (text + piece).split(b"\n")
        for line in lines:
            kind, _, body = line.partition(b" ")
            if kind == b"reading":
                return _decoded(body)
            if kind == b"call":
                now = time.monotonic()
                end = end if call else now + total_timeout
                call, limit = body.decode(errors="replace"), now + call_timeout


def _decoded(body: bytes) -> NodeReading:
    try:
        return msgspec.json.decode(body, type=NodeReading)
    except msgspec.MsgspecError as error:
        return NodeReading("not started", f"the reading cannot be read: {error}")


def _died(child: subprocess.Popen[bytes], call: str) -> NodeReading:
    with contextlib.suppress(subprocess.TimeoutExpired):
        code = child.wait(1.0)
        if -code in _CRASHES:
            return NodeReading("failed", f"{call or 'NVML'} crashed with {signal.Signals(-code).name}")
        return NodeReading("not started", f"the reading ended with {code} at {call or 'its start'}")
    return NodeReading("not started", "the reading closed its output")


def _leave(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(0.5)
    if child.stdout is not None:
        child.stdout.close()


def main() -> None:
    """``python -m hpcpools.gpu.probe SINCE [GPU]...``: the child."""
    from hpcpools.gpu import nvml, processes, reading

    signal.alarm(180)  # whatever becomes of the parent
    since, granted = int(sys.argv[1]), tuple(sys.argv[2:])

    def note(call: str) -> None:
        os.write(1, f"call {call}\n".encode())

    found = reading.take(nvml.binding(), granted, processes.asker(since), note)
    os.write(1, b"reading " + msgspec.json.encode(found) + b"\n")


if __name__ == "__main__":
    main()
