"""The handle of a sweep: its runs, their end, their results."""

from __future__ import annotations

import time
from typing import Any

from hpcpools import atomic
from hpcpools.config import Config
from hpcpools.errors import RunFailedError
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.states import RunState
from hpcpools.runs.sweeps import SweepDirectory
from hpcpools.runs.view import View
from hpcpools.training import cancel, results, sweep
from hpcpools.training.handle import RunHandle
from hpcpools.training.results import Row


class SweepHandle:
    """One sweep: ``.id``, ``.runs``, ``.wait()``, ``.results()``, ``.retry()``, ``.cancel()``."""

    def __init__(self, config: Config, place: SweepDirectory) -> None:
        self._config = config
        self.directory = place
        self.id = place.id

    def __repr__(self) -> str:
        return f"<SweepHandle {self.id}>"

    @property
    def runs(self) -> list[RunHandle]:
        """The handle of each run, in the order of the points."""
        tokens = self.directory.read().tokens
        return [RunHandle(self._config, RunDirectory(self._config.root, token)) for token in tokens]

    def rows(self) -> list[Row]:
        """Arguments, state, newest metrics and result of each run as its files tell; no Slurm command."""
        return results.read_rows(self._config.root, self.directory.read())

    def value(self, token: str) -> Any:
        """What one of the runs returned; None if it has not."""
        return atomic.read_json(RunDirectory(self._config.root, token).result_file)

    def wait(self, timeout: float | None = None) -> list[View]:
        """Wait until every run has ended, up to ``timeout`` seconds. Raises WaitTimeoutError."""
        deadline = None if timeout is None else time.monotonic() + timeout
        return [
            run.wait(None if deadline is None else max(0.0, deadline - time.monotonic())) for run in self.runs
        ]

    def results(self, timeout: float | None = None) -> list[Any]:
        """The JSON value that each run returned, in the order of the points, waiting for them.

        Raises RunFailedError if one did not succeed (``rows()`` tells more), and WaitTimeoutError.
        """
        views = self.wait(timeout)
        bad = [view.token for view in views if view.state is not RunState.COMPLETED]
        if bad:
            raise RunFailedError(
                f"{len(bad)} of {len(views)} runs of {self.id} did not succeed",
                hint=f"see `hpcpools logs {bad[0]}`; retry() sends them again",
            )
        return [self.value(view.token) for view in views]

    def retry(self) -> list[str]:
        """Submit what ended without success again, as one array; the tokens. Raises as ``sweep()`` does."""
        views = sweep.failed(self._config, self.directory)
        return sweep.retry(self._config, self.directory, views)

    def cancel(self) -> list[View]:
        """Ask for the end of all that runs or waits; what is known right after."""
        runs = [run.directory for run in self.runs]
        return cancel.cancel(self._config, runs, whole_arrays=True)
