"""Pipelines: the list, and one pipeline as a drawing and a table with reasons, its end and its retry."""

from __future__ import annotations

from flask import render_template
from flask.typing import ResponseReturnValue

from hpcpools.dashboard import command, graph
from hpcpools.dashboard.app import done, site
from hpcpools.dashboard.pages.sweeps import page_number
from hpcpools.errors import HpcpoolsError, UsageError
from hpcpools.pipeline import advance, record
from hpcpools.pipeline import explain as explaining
from hpcpools.pipeline.definition import edges

SIZE = 50


def pipelines() -> str:
    """Newest first."""
    root, page = site().config.root, page_number()
    ids = record.ids(root)
    found = []
    for name in ids[(page - 1) * SIZE : page * SIZE]:
        try:
            found.append((name, advance.snapshot(record.PipelineRecord(root, name))))
        except HpcpoolsError:
            continue
    return render_template(
        "pipelines.html", found=found, page=page, pages=max(1, -(-len(ids) // SIZE)), count=len(ids)
    )


def pipeline(name: str) -> str:
    """Its stages, why each stands where it stands, and what to do next."""
    config = site().config
    found = record.open_record(config.root, name)
    seen = advance.snapshot(found)
    definition = seen.header.definition
    rows = explaining.rows(found, seen)
    return render_template(
        "pipeline.html",
        record=found,
        seen=seen,
        rows=rows,
        retry=to_retry(seen),
        by_name={row["stage"]: row for row in rows},
        after={stage: list(edges(definition.stages[stage])) for stage in definition.stages},
        drawing=graph.draw(definition),
        box=graph.BOX,
    )


def to_retry(seen: advance.Snapshot) -> list[str]:
    """The stages that a retry would begin anew."""
    try:
        return advance.to_retry(seen)
    except UsageError:  # it runs, or nothing failed
        return []


def cancel(name: str) -> ResponseReturnValue:
    """Start nothing more, and end the stages that run."""
    config = site().config
    advance.cancel(config, record.open_record(config.root, name))
    return done("cancelled", "pipeline", name=name)


def retry(name: str) -> ResponseReturnValue:
    """Try again what did not succeed, and what waited for it."""
    config = site().config
    found = record.open_record(config.root, name)
    command.run(config, "pipeline", "retry", found.id)
    return done("retried", "pipeline", name=name)
