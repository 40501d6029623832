"""Two small drawings as SVG: columns over time and bars beside names. Numbers in, escaped text out."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 900, 120  # of the columns' own coordinates
LEFT = 56  # for the numbers on the axis
BAR = 26


def columns(
    stacks: Sequence[Sequence[float]], classes: Sequence[str], labels: Sequence[str], title: str
) -> str:
    """A column per place of the stacks, the first at the bottom; ``labels``: texts along the axis."""
    number = len(stacks[0])
    top = max((sum(stack[at] for stack in stacks) for at in range(number)), default=0.0)
    step = (WIDTH - LEFT) / max(1, number)
    parts = []
    for at in range(number):
        base = float(HEIGHT)
        for stack, name in zip(stacks, classes, strict=True):
            tall = HEIGHT * stack[at] / top if top else 0.0
            base -= tall
            if tall:
                place = f'x="{LEFT + at * step:.1f}" y="{base:.1f}" width="{max(0.5, step - 1):.1f}"'
                parts.append(f'<rect class="{escape(name)}" {place} height="{tall:.1f}"/>')
    gap = (WIDTH - LEFT) / max(1, len(labels) - 1)
    for at, label in enumerate(labels):
        anchor = "start" if at == 0 else "end" if at == len(labels) - 1 else "middle"
        x, y = LEFT + at * gap, HEIGHT + 18
        parts.append(f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}">{escape(label)}</text>')
    for value, y in ((top, 10), (0.0, HEIGHT)):
        parts.append(f'<text x="{LEFT - 6}" y="{y}" text-anchor="end">{value:.4g}</text>')
    parts.append(f'<line x1="{LEFT}" y1="{HEIGHT}" x2="{WIDTH}" y2="{HEIGHT}"/>')
    return _svg(WIDTH, HEIGHT + 24, title, parts)


def bars(rows: Sequence[tuple[str, float, str]], classes: Sequence[str], title: str) -> str:
    """A bar for each (name, value, words), with its class."""
    most = max((value for _, value, _ in rows), default=0.0) or 1.0
    parts = []
    for at, ((name, value, words), kind) in enumerate(zip(rows, classes, strict=True)):
        y = at * BAR
        wide = 520 * value / most
        parts.append(f'<text x="150" y="{y + 17}" text-anchor="end">{escape(name)}</text>')
        parts.append(
            f'<rect class="{escape(kind)}" x="160" y="{y + 4}" width="{wide:.1f}" height="{BAR - 8}"/>'
        )
        parts.append(f'<text x="{168 + wide:.1f}" y="{y + 17}">{escape(words)}</text>')
    return _svg(WIDTH, max(1, len(rows)) * BAR, title, parts)


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
    return f"{head}<title>{escape(title)}</title>{''.join(parts)}</svg>"
