"""A pipeline for people: each stage with its work, why it stands where it stands, and what to do next."""

from __future__ import annotations

from collections import Counter
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

MANY = 5  # runs of a stage of which only the numbers are told


def rows(record: PipelineRecord, seen: Snapshot) -> list[dict[str, Any]]:
    """Every stage by the files alone; ``work``: its runs' tokens, or its job's id; ``sweep``: its sweep's."""
    return [
        {
            "stage": name,
            "pool": seen.header.pools.get(name, ""),
            "state": standing.state.value,
            "try": seen.tries[name],
            "why": standing.why,
            **_work(record, name, seen.tries[name]),
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
        work = [row["sweep"]] if row["sweep"] else work
        found.append({**row, "next": _next(record.id, state, work, row["stage"])})
    return found


def _work(record: PipelineRecord, name: str, number: int) -> dict[str, Any]:
    file = record.submit_file(name, number)
    if not file.exists():
        return {"sweep": "", "work": []}
    if not stageruns.is_one(file):
        return {"sweep": "", "work": [record.job_id(name, number)]}
    return {"sweep": stageruns.sweep_id(file), "work": stageruns.tokens(file)}


def _running(config: Config, pool: str, work: list[str]) -> str:
    if pool == "training" and len(work) > MANY:
        runs = [RunDirectory(config.root, token) for token in work]
        states = Counter(read_view(run).state.value for run in runs if run.run_file.exists())
        there = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        return f"{there or 'none'} of {len(work)} runs" if states.total() < len(work) else there
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
    if state is StageState.FAILED and work and work[0].startswith("hs-"):
        look = f"`hpcpools sweeps {work[0]}`, then `hpcpools pipeline retry {name}`"
        return f"{look} for the failed runs, or with `--from {stage}` for all, from the code as it is now"
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
