"""Rows on the screen: only what differs is drawn, and the cursor stays on what it was on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.text import Text
from textual.widgets import DataTable

from hpcpools.top.text import Cells


def table(name: str, columns: Sequence[str]) -> DataTable[Text]:
    """An empty one."""
    made: DataTable[Text] = DataTable(id=name, cursor_type="row")
    for column in columns:
        made.add_column(Text(column), key=column, width=len(column))
    return made


def fill(table: DataTable[Text], columns: Sequence[str], rows: Mapping[str, Cells]) -> None:
    """Bring the table to ``rows``: cells that differ where rows and widths are the same, else all of them.

    The widths are ours: a table that finds its own draws every row twice, first too narrow.
    """
    old = [str(key.value) for key in table.rows]
    widths = [
        max([len(column), *(row[at].cell_len for row in rows.values())]) for at, column in enumerate(columns)
    ]
    fits = widths == [column.width for column in table.ordered_columns]
    if fits and old == list(rows):
        for name, cells in rows.items():
            for column, was, now in zip(columns, table.get_row(name), cells, strict=True):
                if was != now:
                    table.update_cell(name, column, now)
        return
    at, top = table.cursor_row, table.scroll_offset
    under = old[at] if at < len(old) else ""
    table.clear(columns=not fits)
    if not fits:
        for column, width in zip(columns, widths, strict=True):
            table.add_column(Text(column), key=column, width=width)
    for name, cells in rows.items():
        table.add_row(*cells, key=name)
    if rows:
        names = list(rows)
        row = names.index(under) if under in rows else min(at, len(names) - 1)
        table.move_cursor(row=row, scroll=False)  # what keys act on never changes by itself
        table.scroll_to(top.x, top.y, animate=False)
