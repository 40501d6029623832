"""The failures that are on record, of trainings and short jobs, in groups of the same failure.

Reads run directories and Redis; changes nothing. What Redis cannot tell now is left out and said.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError, NotFoundError
from hpcpools.failures import fingerprint
from hpcpools.runs import span
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.states import Cause, RunState
from hpcpools.runs.view import View, read_view
from hpcpools.short import views
from hpcpools.textsafe import one_line

Pool = Literal["training", "short"]
# Ends that are a node's fault: where it happened is part of what happened.
_OF_NODES = {Cause.BAD_NODE, Cause.NODE_FAILURE}
_FINE = (RunState.COMPLETED, RunState.CANCELLED)
_MOST = 100_000  # short jobs


@dataclass(frozen=True)
class Failure:
    """One failed run or short job. ``text``: its traceback or last words; ``at``: epoch seconds."""

    pool: Pool
    name: str
    task: str
    cause: str
    text: str
    nodes: tuple[str, ...]
    at: float


@dataclass(frozen=True)
class Group:
    """Failures with one fingerprint, oldest first."""

    group: str
    what: str
    failures: tuple[Failure, ...]

    @property
    def pools(self) -> str:
        """Which pools they are from."""
        return ", ".join(sorted({each.pool for each in self.failures}))

    @property
    def tasks(self) -> tuple[str, ...]:
        """What failed."""
        return tuple(sorted({each.task for each in self.failures}))

    @property
    def nodes(self) -> tuple[str, ...]:
        """Where."""
        return tuple(sorted({node for each in self.failures for node in each.nodes}))


def grouped(failures: Iterable[Failure]) -> list[Group]:
    """The largest group first."""
    found: dict[fingerprint.Fingerprint, list[Failure]] = defaultdict(list)
    for each in failures:
        where = ", ".join(each.nodes) if each.cause in {cause.value for cause in _OF_NODES} else ""
        found[fingerprint.of(each.cause, each.text, where)].append(each)
    rows = [
        Group(print_.group, print_.what, tuple(sorted(members, key=lambda each: each.at)))
        for print_, members in found.items()
    ]
    return sorted(rows, key=lambda row: (-len(row.failures), row.group))


def of_runs(config: Config, since: float) -> Iterator[Failure]:
    """Trainings that failed after ``since``; one that was cancelled did not fail."""
    root = config.root
    for token in span.tokens(root, since):
        with contextlib.suppress(HpcpoolsError):
            view = read_view(RunDirectory(root, token))
            ended_badly = view.state.is_final and view.state not in _FINE
            if ended_badly and view.since >= since:
                yield _of_run(view)


def of_jobs(config: Config, since: float) -> list[Failure]:
    """Short jobs that failed after ``since``. Raises RedisUnavailableError."""
    rows = [row for row in views.jobs(config, state="failed", limit=_MOST) if (row.ended or 0.0) >= since]
    traces = views.traces(config, [row.id for row in rows])
    return [
        Failure("short", row.id, row.call.partition("(")[0], "task", trace, (), row.ended or 0.0)
        for row, trace in zip(rows, traces, strict=True)
    ]


def find(rows: Sequence[Group], name: str) -> Group:
    """The group whose id begins with ``name``. Raises NotFoundError."""
    found = [row for row in rows if row.group.startswith(name)] if name else []
    if len(found) != 1:
        how = "several groups begin" if found else "no group begins"
        raise NotFoundError(f"{how} with {one_line(name)!r}", hint="`hpcpools failures` lists them")
    return found[0]


def _of_run(view: View) -> Failure:
    attempt = view.attempt
    text = attempt.error if attempt and attempt.error else view.reason
    nodes = (attempt.where,) if attempt and attempt.where else ()
    return Failure("training", view.token, view.request.what, view.cause.value, text, nodes, view.since)
