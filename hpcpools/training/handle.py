"""The handle of a run: its state, its end, its result."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from hpcpools import atomic, durations
from hpcpools.config import Config
from hpcpools.errors import NotFoundError, RunFailedError, WaitTimeoutError
from hpcpools.runs import directory, metrics
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.metrics import Progress
from hpcpools.runs.states import RunState
from hpcpools.runs.view import View, read_view
from hpcpools.training import cancel, engine, watch

FILE_POLL = 0.5  # seconds between two looks at the run directory while waiting


class RunHandle:
    """One run: ``.state``, ``.wait()``, ``.result()``, ``.cancel()``. Cheap to make, reads files."""

    def __init__(self, config: Config, run: RunDirectory) -> None:
        self._config = config
        self.directory = run
        self.token = run.token

    def __repr__(self) -> str:
        return f"<RunHandle {self.token} {self.state.value}>"

    @property
    def state(self) -> RunState:
        """The state as the run's files tell; no Slurm command."""
        return self.view().state

    def view(self, max_age: float | None = None, *, ask: bool = False) -> View:
        """Everything known. ``ask``: also of Slurm, if the answer that all readers share is old; ``max_age``
        (seconds) says what old is."""
        if ask or max_age is not None:
            view = read_view(self.directory)
            if not view.state.is_final:
                runner = engine.runner(self._config) if view.request.engine == "slurm" else None
                seen = watch.refresh(self._config, runner, max_age=max_age)
                return next(
                    (found for found in (*seen.views, *seen.ended) if found.token == self.token),
                    read_view(self.directory),
                )
        return read_view(self.directory)

    def progress(self) -> Progress | None:
        """The newest logged step and values."""
        return metrics.progress(self.directory.metrics_file)

    def wait(
        self, timeout: float | None = None, heed: Callable[[View, Progress | None], None] | None = None
    ) -> View:
        """Wait for the end; ``heed`` is called about twice a second. Raises WaitTimeoutError."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            view = self.view(ask=True)
            if heed is not None:
                heed(view, self.progress())
            if view.state.is_final:
                return view
            if deadline is not None and time.monotonic() >= deadline:
                raise WaitTimeoutError(
                    f"{self.token} is {view.state.value} after {durations.age(timeout or 0)}",
                    hint="it goes on; wait again or look at `hpcpools show`",
                )
            time.sleep(FILE_POLL)

    def result(self, timeout: float | None = None) -> Any:
        """The JSON value the training returned, waiting for it.

        Raises RunFailedError if the run ended otherwise, WaitTimeoutError if it did not end in time.
        """
        view = self.wait(timeout)
        if view.state is not RunState.COMPLETED:
            raise RunFailedError(
                f"{self.token} ended {view.state.value}"
                + (f" ({view.cause.value})" if view.cause.value else "")
                + (f": {view.reason}" if view.reason else ""),
                hint=f"see `hpcpools logs {self.token}`",
            )
        return atomic.read_json(self.directory.result_file)

    def cancel(self) -> View:
        """Ask for the end; returns what is known right after."""
        return cancel.cancel(self._config, [self.directory])[0]


def open_handle(config: Config, token: str) -> RunHandle:
    """The handle of a run known by (the start of) its token. Raises NotFoundError."""
    if not config.root.is_dir():
        raise NotFoundError(f"there are no runs in {config.root}", hint="`hpcpools train` makes one")
    return RunHandle(config, directory.open_run(config.root, token))
