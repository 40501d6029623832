"""A pipeline as a drawing: stages in columns by what they wait for, edges as curves. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hpcpools.pipeline.definition import Definition, edges, order

BOX, ROW = (190, 52), 76  # a stage's size, and the distance of two rows; all in the drawing's own units
COLUMN = 260  # the distance of two columns
MARGIN = 8


@dataclass(frozen=True)
class Box:
    """A stage's place."""

    name: str
    x: int
    y: int


@dataclass(frozen=True)
class Drawing:
    """Boxes, and the paths of the edges as SVG writes them."""

    width: int
    height: int
    boxes: tuple[Box, ...]
    paths: tuple[str, ...]


def draw(definition: Definition) -> Drawing:
    """Each stage stands right of all that it waits for; stages of a column stand in the file's order."""
    columns: dict[str, int] = {}
    for name in order(definition):
        before = [columns[each] for each in edges(definition.stages[name])]
        columns[name] = 1 + max(before, default=-1)
    rows: dict[int, int] = {}
    boxes: dict[str, Box] = {}
    for name in definition.stages:
        column = columns[name]
        row = rows[column] = rows.get(column, -1) + 1
        boxes[name] = Box(name, MARGIN + column * COLUMN, MARGIN + row * ROW)
    return Drawing(
        width=2 * MARGIN + max(columns.values()) * COLUMN + BOX[0],
        height=2 * MARGIN + max(rows.values()) * ROW + BOX[1],
        boxes=tuple(boxes.values()),
        paths=tuple(_paths(definition, boxes)),
    )


def _paths(definition: Definition, boxes: Mapping[str, Box]) -> list[str]:
    found = []
    for name, stage in definition.stages.items():
        for before in edges(stage):
            start, end = boxes[before], boxes[name]
            x1, y1 = start.x + BOX[0], start.y + BOX[1] // 2
            x2, y2 = end.x, end.y + BOX[1] // 2
            bend = (x2 - x1) // 2
            found.append(f"M{x1} {y1} C{x1 + bend} {y1} {x2 - bend} {y2} {x2 - 7} {y2}")
    return found
