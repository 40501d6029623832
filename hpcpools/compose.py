"""Pipelines in Python: ``hpcpools.Pipeline`` builds what a TOML file would say, and starts it.

Owns no rule of its own: what it builds is checked and run like a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpcpools import config as configuration
from hpcpools.config import Config
from hpcpools.errors import UsageError
from hpcpools.pipeline import advance, definition, record
from hpcpools.pipeline.advance import Snapshot
from hpcpools.pipeline.definition import Definition
from hpcpools.services import autostart
from hpcpools.training import engine


@dataclass(frozen=True)
class Output:
    """A stage of a pipeline, for ``after=`` and for arguments of later stages."""

    name: str

    def result(self, key: str = "") -> dict[str, str]:
        """What the stage will return, or ``key`` (``"a.b"``) of it."""
        return {definition.FROM: self.name, **({"key": key} if key else {})}

    def checkpoint(self) -> dict[str, str]:
        """The path of the training's newest checkpoint."""
        return {definition.FROM: self.name, "of": "checkpoint"}

    def token(self) -> dict[str, str]:
        """The name of the training's run."""
        return {definition.FROM: self.name, "of": "token"}

    def directory(self) -> dict[str, str]:
        """The path of the training's run directory."""
        return {definition.FROM: self.name, "of": "directory"}


class Pipeline:
    """Stages over both pools.

    For example::

        nightly = Pipeline("nightly")
        data = nightly.stage("data", prepare)
        nightly.stage("fit", fit, path=data.result("path"))
        print(nightly.run().id)
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self._stages: dict[str, dict[str, Any]] = {}

    def stage(
        self,
        name: str,
        task: str | Callable[..., Any],
        arguments: Mapping[str, Any] | None = None,
        /,
        *,
        after: Sequence[Output | str] = (),
        on_failure: str = "stop",
        sweep: Mapping[str, Sequence[Any]] | None = None,
        max_parallel: int | None = None,
        gpus: int | None = None,
        nodes: int | None = None,
        time: str | int | None = None,
        partition: str = "",
        **named: Any,
    ) -> Output:
        """Add one; arguments named like an option here go into ``arguments``. Raises UsageError."""
        if name in self._stages:
            raise UsageError(f"stage {name!r} is there already", hint="give each stage its own name")
        self._stages[name] = {
            "task": task if isinstance(task, str) else f"{task.__module__}:{task.__qualname__}",
            "arguments": {**(arguments or {}), **named},
            "after": [each.name if isinstance(each, Output) else each for each in after],
            "on_failure": on_failure,
            "sweep": {key: list(values) for key, values in (sweep or {}).items()},
            "max_parallel": max_parallel,
            "gpus": gpus,
            "nodes": nodes,
            "time": time,
            "partition": partition,
        }
        return Output(name)

    def definition(self) -> Definition:
        """As data, checked as far as that needs no configuration. Raises ConfigError."""
        return definition.parse({"name": self.name, "stages": self._stages}, "Pipeline()")

    def run(self, *, config: Config | None = None) -> PipelineHandle:
        """Check everything, write it down, start it. Raises ConfigError: nothing was written then."""
        return start(config or configuration.load(), self.definition(), "Pipeline()")


class PipelineHandle:
    """A started pipeline: ``.state``, ``.wait()``, ``.cancel()``, ``.retry()``, ``.result(stage)``."""

    def __init__(self, config: Config, found: record.PipelineRecord) -> None:
        self._config = config
        self.record = found
        self.id = found.id

    def __repr__(self) -> str:
        return f"<PipelineHandle {self.id} {self.state}>"

    @property
    def state(self) -> str:
        """RUNNING, COMPLETED, FAILED or CANCELLED, by its files."""
        return self.view().state

    def view(self) -> Snapshot:
        """Everything known, by its files."""
        return advance.snapshot(self.record)

    def wait(self, timeout: float | None = None) -> str:
        """Advance it until its end; the state. Raises WaitTimeoutError."""
        return advance.wait(self._config, self.record, timeout).state

    def result(self, stage: str) -> Any:
        """What a stage returned (a list for a sweep). Raises UsageError, RunFailedError."""
        return advance.result(self.record, stage)

    def cancel(self) -> str:
        """Start nothing more and end what runs; the state right after."""
        return advance.cancel(self._config, self.record).state

    def retry(self, stage: str = "") -> str:
        """Try again what failed, or ``stage`` and what follows it. Raises UsageError."""
        return advance.retry(self._config, self.record, stage).state


def start(
    config: Config, asked: Definition, where: str, note: autostart.Note = lambda _text: None
) -> PipelineHandle:
    """Check, start the services where that is ours to do, and start the pipeline."""
    pools = advance.check(config, asked, where).values()
    if "short" in pools:
        autostart.for_short(config, note)
    if "training" in pools and engine.choose(config) == "local":
        autostart.for_training(config, note)
    return PipelineHandle(config, advance.start(config, asked, where))
