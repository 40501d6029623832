"""Sweeps: the list, and one sweep's table of runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from flask import render_template, request
from msgspec import structs

from hpcpools.dashboard.app import site
from hpcpools.errors import HpcpoolsError, UsageError
from hpcpools.runs import sweeps as records
from hpcpools.training import results

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
    return render_template(
        "sweep.html",
        place=place,
        content=content,
        rows=[(row, results.cells(row)) for row in rows],
        columns=results.columns(rows)[:12],
        states=here.table.states(content.tokens),
        sort=sort,
        dir="down" if down else "up",
        page=page,
        pages=max(1, -(-len(content.tokens) // SIZE)),
    )
