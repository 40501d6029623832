"""After Redis lost its data: all that the files know is put back, and what they cannot know is said.

Owns the rebuilding of the index, and the look which short jobs of pipelines and evaluations Redis does not
know any more. Refuses to guess at short jobs that were only in Redis. Harmless at any time: it writes the
index anew, and has upkeep's own steps done.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hpcpools import atomic
from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError
from hpcpools.maintenance import metrics
from hpcpools.maintenance.parallel import mapped
from hpcpools.pipeline import record as recording
from hpcpools.pipeline.record import PipelineRecord
from hpcpools.redisdb import keys
from hpcpools.redisdb.connect import connect
from hpcpools.redisdb.outage import told
from hpcpools.runs import batches, directory
from hpcpools.runs.batches import BatchDirectory
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.view import read_view
from hpcpools.short import declared
from hpcpools.textsafe import one_line
from hpcpools.training import engine, watch

if TYPE_CHECKING:
    from redis import Redis

CHUNK = 1000  # runs read, and rows written, at once
_SUBMIT, _DONE = ".submit.json", ".done.json"
Heed = Callable[[int, int], None]  # hears how many runs of how many are read


@dataclass
class Reconciled:
    """What was, or with ``dry_run`` would be, put back.

    ``wiped``: there was no index at all. ``missing``: runs without a row; ``stale``: rows without a run.
    ``jobs``: ids of short jobs of pipelines and evaluations that Redis did not know. ``lane``: tasks in Slurm
    of which it knows no job any more; their ends stay beside their batch.
    """

    dry_run: bool
    wiped: bool = False
    runs: int = 0
    missing: int = 0
    stale: int = 0
    pipelines: dict[str, str] = field(default_factory=dict)
    jobs: list[str] = field(default_factory=list)
    lane: int = 0
    schedules: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**vars(self), "problems": self.problems[:20]}


def wiped(config: Config) -> bool:
    """Whether there are runs and no index of them. Raises RedisUnavailableError."""
    with told(), connect(config) as connection:
        return not connection.exists(keys.INDEX) and bool(directory.tokens(config.root))


def reconcile(
    config: Config, *, dry_run: bool = False, heed: Heed = lambda _done, _total: None
) -> Reconciled:
    """Put back the index, and the short jobs of pipelines and evaluations; one look at Slurm for all runs.

    Raises RedisUnavailableError, and ConfigError if what is declared cannot be loaded.
    """
    began, found = time.monotonic(), Reconciled(dry_run)
    with told(), connect(config) as connection:
        known = {key.decode("utf-8", "replace") for key in connection.hkeys(keys.INDEX)}
        tokens = directory.tokens(config.root)
        found.wiped, found.runs = not known and bool(tokens), len(tokens)
        found.missing, found.stale = len(set(tokens) - known), len(known - set(tokens))
        found.lane = _lane(config, connection, found.problems)
        found.schedules = sum(each.state == "on" for each in declared.read(config).entries.values())
        outstanding = _absent(connection, list(_outstanding(config)))
        if dry_run:
            found.jobs = outstanding
            found.pipelines = dict.fromkeys(recording.live_ids(config.root), "RUNNING")
        else:
            _look_at_slurm(config, found)
            _index(config, connection, tokens, found, heed)
            _advance(config, found)
            still = set(_absent(connection, outstanding))
            found.jobs = [each for each in outstanding if each not in still]
    found.seconds = round(time.monotonic() - began, 3)
    return found


def _look_at_slurm(config: Config, found: Reconciled) -> None:
    runner = engine.runner(config)
    seen = watch.refresh(config, runner if runner.available() else None)
    if seen.error:
        found.problems.append(one_line(seen.error))


def _index(config: Config, connection: Redis, tokens: Sequence[str], found: Reconciled, heed: Heed) -> None:
    """Write the index whole under another name, then put it in its place in one step.

    A crash before that leaves no half of an index, which upkeep would take for a whole one.
    """
    connection.delete(keys.INDEX_DRAFT)
    done = 0
    for rows, problems in mapped(_rows, config, tokens, CHUNK):
        if rows:
            connection.hset(keys.INDEX_DRAFT, mapping=rows)  # type: ignore[arg-type]
        done += len(rows) + len(problems)
        found.problems += problems
        heed(done, len(tokens))
    if connection.exists(keys.INDEX_DRAFT):
        connection.rename(keys.INDEX_DRAFT, keys.INDEX)
    elif not tokens:
        connection.delete(keys.INDEX)
    connection.set(keys.INDEX_AS_OF, time.time())
    # What was live, new or just ended meanwhile: upkeep may have written it before we took its place.
    late = set(directory.tokens(config.root)) - set(tokens)
    late |= {*directory.live_tokens(config.root), *directory.ended_tokens(config.root)}
    rows, _ = _rows(config, sorted(late))
    if rows:
        connection.hset(keys.INDEX, mapping=rows)  # type: ignore[arg-type]


def _rows(config: Config, tokens: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    rows, problems, now = {}, [], time.time()
    root = config.root
    for token in tokens:
        try:
            rows[token] = metrics.row(config, read_view(RunDirectory(root, token)), now)
        except (HpcpoolsError, OSError, ValueError, KeyError) as error:
            problems.append(one_line(f"{token}: {error}"))
    return rows, problems


def _advance(config: Config, found: Reconciled) -> None:
    """Have pipelines and evaluations give their jobs to the workers: under fixed ids, so each once."""
    from hpcpools.pipeline import advance, evaluate

    done = advance.advance_all(config)
    found.pipelines = done["pipelines"]
    found.problems += done["problems"]
    found.problems += evaluate.scan(config).get("problems", [])


def _outstanding(config: Config) -> Iterator[str]:
    """Ids of the short jobs that pipelines and evaluations have given away and not seen end."""
    for name in recording.live_ids(config.root):
        record = PipelineRecord(config.root, name)
        for file in sorted(record.path.glob(f"*{_SUBMIT}")):
            stage, _, number = file.name.removesuffix(_SUBMIT).rpartition(".")
            done = file.with_name(file.name.removesuffix(_SUBMIT) + _DONE)
            with contextlib.suppress(ValueError, OSError):
                if number.isdecimal() and not done.exists() and "task" in (atomic.read_json(file) or {}):
                    yield record.job_id(stage, int(number))
    if config.continuous_evaluation:
        from hpcpools.pipeline import evaluate

        marks = config.root / ".evaluations"
        closed = set(os.listdir(marks)) if marks.is_dir() else set()
        for token in directory.tokens(config.root):
            if token not in closed:
                for each in evaluate.read(RunDirectory(config.root, token)):
                    if not each.ended:
                        yield each.job_id


def _absent(connection: Redis, ids: Sequence[str]) -> list[str]:
    """Those of ``ids`` that Redis knows no job of."""
    with connection.pipeline(transaction=False) as pipe:
        for each in ids:
            pipe.exists(f"rq:job:{each}")
        return [each for each, there in zip(ids, pipe.execute(), strict=True) if not there]


def _lane(config: Config, connection: Redis, problems: list[str]) -> int:
    """How many tasks that the lane has in Slurm have no job in Redis any more."""
    ids = []
    for token in batches.live(config.root):
        try:
            ids += [job.id for job in BatchDirectory(config.root, token).read().jobs]
        except (HpcpoolsError, OSError) as error:
            problems.append(one_line(f"{token}: {error}"))
    return len(_absent(connection, ids))
