"""A pipeline for people: each stage with its work, why it stands where it stands, and what to do next."""

from __future__ import annotations

from typing import Any

from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError, NotFoundError
from hpcpools.pipeline import stageruns
from hpcpools.pipeline.advance import Snapshot
from hpcpools.pipeline.decide import StageState
from hpcpools.pipeline.record import PipelineRecord
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.view import read_view
from hpcpools.short.enqueue import Client, ShortJob
from hpcpools.textsafe import one_line


def rows(record: PipelineRecord, seen: Snapshot) -> list[dict[str, Any]]:
    """Every stage by the files alone; ``work`` are its runs' tokens, or its job's id."""
    return [
        {
            "stage": name,
            "pool": seen.header.pools.get(name, ""),
            "state": standing.state.value,
            "try": seen.tries[name],
            "why": standing.why,
            "work": _work(record, name, seen.tries[name]),
        }
        for name, standing in seen.standings.items()
    ]


def explain(config: Config, record: PipelineRecord, seen: Snapshot) -> list[dict[str, Any]]:
    """``rows`` with the reason of what runs, and ``next``: what a person can do about it."""
    found = []
    for row in rows(record, seen):
        state, work = StageState(row["state"]), row["work"]
        if state is StageState.RUNNING and not row["why"]:
            row["why"] = _running(config, row["pool"], work)
        found.append({**row, "next": _next(record.id, state, work, row["stage"])})
    return found


def _work(record: PipelineRecord, name: str, number: int) -> list[str]:
    file = record.submit_file(name, number)
    if not file.exists():
        return []
    return stageruns.tokens(file) if stageruns.is_one(file) else [record.job_id(name, number)]


def _running(config: Config, pool: str, work: list[str]) -> str:
    if pool == "training":
        words = []
        for token in work:
            run = RunDirectory(config.root, token)
            if not run.run_file.exists():
                words.append(f"{token} is being submitted")
                continue
            view = read_view(run)
            words.append(" ".join(filter(None, (token, view.state.value, view.reason))))
        return one_line("; ".join(words), 500)
    try:
        job = ShortJob(config, Client.of(config).connection, work[0]).refresh()
        return f"its job is {job.state}"
    except NotFoundError:
        return "its job is not in Redis; it is given to the workers again, unless it has ended"
    except HpcpoolsError as error:
        return error.message


def _next(name: str, state: StageState, work: list[str], stage: str) -> str:
    if state is StageState.FAILED:
        look = (
            f"`hpcpools {'logs' if work[0].startswith('hp-') else 'show'} {work[0]}`, then " if work else ""
        )
        return f"{look}`hpcpools pipeline retry {name} --from {stage}`"
    if state is StageState.CANCELLED:
        return f"`hpcpools pipeline retry {name}`"
    if state is StageState.READY:
        return f"the scheduler submits it (`hpcpools up`), or `hpcpools pipeline wait {name}`"
    return f"`hpcpools show {work[0]}`" if state is StageState.RUNNING and work else ""
