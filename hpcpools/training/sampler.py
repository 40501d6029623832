"""The measuring process beside a training: started by the node entry, ends with it, never disturbs it.

Samples the GPUs and the training's steps into ``gpu.jsonl``. With the policy "notify" a verdict is written
down, for upkeep to tell; with "stop" it makes the attempt's stop file too, which the training heeds like any
warning. Without NVML it ends at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcpools import atomic, interpreter
from hpcpools.gpu import nvml, reading
from hpcpools.gpu.sample import Sample, Sampler
from hpcpools.runs import attempts, metrics, telemetry
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Request
from hpcpools.runs.telemetry import Point
from hpcpools.training import nodeenv

if TYPE_CHECKING:
    from hpcpools.schema import Telemetry


@contextlib.contextmanager
def beside(directory: RunDirectory, request: Request, folder: Path) -> Iterator[None]:
    """Measure while the block runs, if the run has GPUs and its config wants it."""
    if not request.telemetry.enabled or request.resources.gpus == 0:
        yield
        return
    words = (str(directory.path), str(folder), str(os.getpid()))
    argv = interpreter.argv("hpcpools.training.sampler", *words)
    try:
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"hpcpools: no telemetry: {error}", file=sys.stderr)
        yield
        return
    try:
        yield
    finally:
        child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the driver: not worth a wait
            child.wait(1.0)


class Watch:
    """The trace so far and what it means; ``look`` is one interval's work."""

    def __init__(self, directory: RunDirectory, folder: Path, limits: Telemetry, started: float) -> None:
        self._metrics, self._folder, self._limits = directory.metrics_file, folder, limits
        self._started, self._said = started, ""
        self._used: float | None = None
        self._trace: deque[Point] = deque()
        self._size = -1
        self._step: int | None = None

    def look(self, samples: tuple[Sample, ...], now: float) -> None:
        """Take in one sample: a line in the file, and what the policy says on a new verdict."""
        busy = [float(sample.util) for sample in samples if sample.util is not None]
        step = self._newest_step()
        if busy:
            since = self._trace[-1].at if self._trace else self._started
            self._used = round((self._used or 0.0) + sum(busy) / 100 * max(0.0, now - since), 3)
            self._trace.append(Point(now, max(busy), sum(busy) / len(busy), step))
            while self._trace[0].at < now - telemetry.window(self._limits):
                self._trace.popleft()
        said = telemetry.verdict(list(self._trace), self._limits)
        telemetry.append(self._folder, now, self._used, step, said, [asdict(one) for one in samples])
        if said and said != self._said:
            policy = getattr(self._limits, f"on_{said}")
            print(f"hpcpools: telemetry: {said} (policy: {policy})", file=sys.stderr, flush=True)
            if policy != "note":
                telemetry.announce(self._folder, now, said, policy, step)
            if policy == "stop":
                atomic.create_bytes(attempts.whole(self._folder) / "stop", b"")
        self._said = said

    def _newest_step(self) -> int | None:
        """The newest step that this attempt logged; read again only when the file has grown."""
        with contextlib.suppress(OSError):
            size = self._metrics.stat().st_size
            if size != self._size:
                self._size = size
                found = metrics.progress(self._metrics)
                if found is not None and found.at >= self._started:
                    self._step = found.step
        return self._step


def main() -> None:
    """``python -m hpcpools.training.sampler RUN_DIR ATTEMPT_DIR PARENT_PID``: the child."""
    path, folder, parent = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # end with the entry, prctl(2)
    if os.getppid() != parent:
        return
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):  # meant for the training
        signal.signal(number, signal.SIG_IGN)
    os.nice(10)
    directory = RunDirectory(path.parent, path.name)
    limits = directory.request().telemetry
    binding: Any = nvml.binding()
    if binding is None:
        return
    try:
        sampler = Sampler(binding, nodeenv.granted_gpus())
    except binding.NVMLError as error:
        if reading.code(error) != reading.LIBRARY_NOT_FOUND:  # the preflight has said that
            print(f"hpcpools: no telemetry: {error}", file=sys.stderr)
        return
    watch = Watch(directory, folder, limits, time.time())
    due = time.monotonic()
    while True:
        watch.look(sampler.take(), time.time())
        due = max(due + limits.interval, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main()
