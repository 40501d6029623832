"""Sweeps: the list, and one sweep's table of runs, their end and the retry of what failed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from flask import render_template, request
from flask.typing import ResponseReturnValue
from msgspec import structs

from hpcpools.dashboard.app import done, site
from hpcpools.dashboard.rows import FINAL, LIVE
from hpcpools.errors import HpcpoolsError, RefusedError, UsageError
from hpcpools.runs import sweeps as records
from hpcpools.runs.directory import RunDirectory
from hpcpools.training import cancel as cancelling
from hpcpools.training import results
from hpcpools.training import sweep as sweeping

SIZE = 50  # sweeps or runs of a page


@dataclass(frozen=True)
class Line:
    """A sweep in the list."""

    id: str
    created: float
    label: str
    what: str
    runs: int
    states: Counter[str]


def page_number() -> int:
    """``page`` of the address, from 1."""
    said = request.args.get("page", "")
    return max(1, int(said)) if said.isdecimal() and len(said) < 8 else 1


def sweeps() -> str:
    """Newest first."""
    here = site()
    here.table.want()
    ids, page = records.ids(here.config.root), page_number()
    lines = []
    for one in ids[(page - 1) * SIZE : page * SIZE]:
        try:
            content = records.SweepDirectory(here.config.root, one).read()
        except HpcpoolsError:
            continue
        states = here.table.states(content.tokens)
        lines.append(
            Line(one, content.created, content.label, content.definition.what, len(content.tokens), states)
        )
    return render_template(
        "sweeps.html", lines=lines, page=page, pages=max(1, -(-len(ids) // SIZE)), found=len(ids)
    )


def sweep(name: str) -> str:
    """Its runs, by ``sort`` and ``dir``; columns are what differs, metrics and results."""
    here = site()
    here.table.want()
    place = records.open_sweep(here.config.root, name)
    content = place.read()
    sort, down, page = request.args.get("sort", "")[:100], request.args.get("dir") == "down", page_number()
    first = (page - 1) * SIZE
    if sort:
        rows = results.read_rows(here.config.root, content)
        try:
            rows = results.ordered(rows, sort, descending=down)
        except UsageError:  # no run has such a number
            sort = ""
        rows = rows[first : first + SIZE]
    else:  # only what is shown is read
        part = structs.replace(content, tokens=content.tokens[first : first + SIZE])
        found = results.read_rows(here.config.root, part)
        rows = [replace(row, number=row.number + first) for row in found]
    states = here.table.states(content.tokens)
    return render_template(
        "sweep.html",
        place=place,
        content=content,
        rows=[(row, results.cells(row)) for row in rows],
        columns=results.columns(rows)[:12],
        states=states,
        live=not LIVE.isdisjoint(states),
        failed=not (FINAL - {"COMPLETED", "CANCELLED"}).isdisjoint(states),
        sort=sort,
        dir="down" if down else "up",
        page=page,
        pages=max(1, -(-len(content.tokens) // SIZE)),
    )


def cancel(name: str) -> ResponseReturnValue:
    """Ask for the end of all its runs."""
    config = site().config
    place = records.open_sweep(config.root, name)
    runs = [RunDirectory(config.root, token) for token in place.read().tokens]
    cancelling.cancel(config, runs, whole_arrays=True)
    return done("cancelled", "sweep", name=name)


def retry(name: str) -> ResponseReturnValue:
    """Submit what ended without success again, as one array."""
    config = site().config
    place = records.open_sweep(config.root, name)
    failed = sweeping.failed(config, place)
    if not failed:
        raise RefusedError("no run of this sweep has failed", hint="cancelled runs stay as they are")
    sweeping.retry(config, place, failed)
    return done("retried", "sweep", name=name)
