"""The ``run`` that a training function is given: log, checkpoint, resume, should_stop.

Owns nothing but files of the run directory. In a distributed run only rank 0 writes; all ranks may call.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hpcpools import textsafe
from hpcpools.errors import UsageError
from hpcpools.runs import checkpoints, metrics
from hpcpools.runs.checkpoints import Checkpoint
from hpcpools.training import nodeenv

_STOP_POLL = 0.5  # seconds between two looks for the stop file


class Cancelled(BaseException):
    """Someone cancelled the run: raised in the training's main thread, saves nothing."""


class Run:
    """One attempt of one run, seen from inside the training.

    Attributes: ``token`` (str), ``path`` (the run directory), ``rank``, ``local_rank``, ``world_size``.
    """

    def __init__(self, path: Path, attempt: Path) -> None:
        self.path = path
        self.token = path.name
        self.attempt = attempt
        self.rank, self.local_rank, self.world_size = nodeenv.rank()
        self.extra: dict[str, Any] = {}  # what ``save(extra=…)`` kept, once ``restore`` found it
        self.stopped_early = False  # the training was told to stop, and asked
        self.stop_signal = 0  # what told it so
        self._stop = False
        self._stop_file = attempt / "stop"
        self._next_look = 0.0

    @property
    def is_main(self) -> bool:
        """True in the one process that writes (rank 0)."""
        return self.rank == 0

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    def log(self, *, step: int | None = None, total: int | None = None, **values: Any) -> None:
        """Append numbers to ``metrics.jsonl``; ``total`` is the last step, for the progress bar."""
        if {"at", "step", "total"} & values.keys():
            raise UsageError("'at' cannot be logged", hint="choose another name")
        if self.is_main:
            metrics.log(self.path / "metrics.jsonl", time.time(), step, total, values)

    @contextlib.contextmanager
    def checkpoint(self, step: int, **values: float) -> Iterator[Path]:
        """A folder to write this step's files into; complete and durable once the block ends.

        ``values`` (for example ``loss=0.3``) go into the manifest, for ``keep_best``. Other ranks get a
        folder that is thrown away.
        """
        if self.is_main:
            numbers = {name: float(value) for name, value in values.items()}
            with checkpoints.writing(self.checkpoints, step, time.time(), numbers) as folder:
                yield folder
            return
        scratch = Path(tempfile.mkdtemp(prefix="hpcpools-rank-"))
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def resume(self) -> Checkpoint | None:
        """The newest checkpoint that verifies, or None: start from the beginning."""
        return checkpoints.newest_valid(self.checkpoints)

    def save(
        self,
        step: int,
        *,
        model: Any = None,
        optimizer: Any = None,
        scheduler: Any = None,
        scaler: Any = None,
        sampler: Any = None,
        extra: Mapping[str, Any] | None = None,
        **values: float,
    ) -> None:
        """A checkpoint of a torch training: what is given, every rank's random numbers, ``extra`` (JSON).

        In a distributed training all ranks call it at the same step; rank 0 writes, DistributedDataParallel
        is taken off. ``values`` go into the manifest. Raises UsageError for what ``restore`` could not load.
        """
        from hpcpools.training import torchstate

        kept = textsafe.json_arguments(dict(extra or {}))
        state = torchstate.capture(_parts(model, optimizer, scheduler, scaler, sampler))
        if torchstate.rank(self.rank) == 0:
            with self.checkpoint(step, **values) as folder:
                torchstate.write(folder, state, kept)

    def restore(
        self,
        *,
        model: Any = None,
        optimizer: Any = None,
        scheduler: Any = None,
        scaler: Any = None,
        sampler: Any = None,
    ) -> int:
        """Go on from the newest checkpoint that verifies, the same one on all ranks; its step, 0 if none.

        Call it last before the loop, with models and process group in place: it sets the random numbers.
        ``self.extra`` has the extra values. Raises HpcpoolsError if ``save`` did not write it.
        """
        from hpcpools.training import torchstate

        found = self.resume() if torchstate.rank() == 0 else None
        step = torchstate.from_first(-1 if found is None else found.step)
        if step < 0:
            return 0
        parts = _parts(model, optimizer, scheduler, scaler, sampler)
        self.extra = torchstate.load(checkpoints.at_step(self.checkpoints, step), parts)
        return step

    def stop_together(self) -> bool:
        """``should_stop`` of a distributed training, on all ranks at the same step. All must call it."""
        if self.world_size > 1:
            from hpcpools.training import torchstate

            self._stop = torchstate.anywhere(self.should_stop)
        return self.should_stop

    @property
    def should_stop(self) -> bool:
        """True once a warning signal came: save a checkpoint and return. Cheap enough for every step.

        Ranks see it at different steps, on several nodes seconds apart: ``stop_together`` is for those that
        must leave at the same one.
        """
        if not self._stop and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _STOP_POLL
            self._stop = self._stop_file.exists()
        self.stopped_early = self.stopped_early or self._stop
        return self._stop

    def heed_signals(self) -> None:
        """From now on TERM and USR2 set ``should_stop``, in this process and not in its forked children."""
        me = os.getpid()

        def handler(number: int, _frame: object) -> None:
            if os.getpid() != me:
                return
            # Under torchrun TERM may also mean that a peer failed: nothing to wait for then.
            if number == signal.SIGTERM and (
                (self.path / "cancel.json").exists() or any(self.attempt.glob("rank-*.json"))
            ):
                raise Cancelled
            self._stop = True
            self.stop_signal = signal.SIGUSR2 if signal.SIGUSR2 in (number, self.stop_signal) else number

        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, handler)


def _parts(model: Any, optimizer: Any, scheduler: Any, scaler: Any, sampler: Any) -> dict[str, Any]:
    """What has a state in a torch training, by the names under which it is kept."""
    return {
        "model": model,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "scaler": scaler,
        "sampler": sampler,
    }


def current_run() -> Run:
    """The run this process belongs to; for scripts started by ``hpcpools train -- python script.py``.

    TERM and USR2 set its ``should_stop`` from now on, unless the script has handlers of its own.

    Raises UsageError outside a run.
    """
    path, attempt = nodeenv.variable(nodeenv.RUN_DIR), nodeenv.variable(nodeenv.ATTEMPT_DIR)
    if not path or not attempt:
        raise UsageError(
            "this process belongs to no run", hint="start it with `hpcpools train -- python script.py`"
        )
    run = Run(Path(path), Path(attempt))
    if threading.current_thread() is threading.main_thread() and not _own_handlers():
        run.heed_signals()
    return run


def _own_handlers() -> bool:
    """True if the script has handlers of its own: they stay."""
    found = (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR2))
    return any(handler not in (signal.SIG_DFL, signal.SIG_IGN, None) for handler in found)
