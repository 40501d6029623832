"""The curves of a run: in the terminal by plotext, in a file by matplotlib. Both are imported when drawn.

The attempts of a run make one curve over its steps; a step that was logged again counts once, as it was last.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcpools import atomic
from hpcpools.errors import HpcpoolsError, UsageError
from hpcpools.runs import curves
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.view import read_view
from hpcpools.textsafe import one_line

HINT = "`pip install 'hpcpools[plots]'`"
SUFFIXES = (".png", ".svg")


@dataclass(frozen=True)
class Curve:
    """One line; a None among the values is a gap."""

    name: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]


@dataclass(frozen=True)
class Panel:
    """The curves that share axes."""

    title: str
    axis: str
    curves: tuple[Curve, ...]
    percent: bool = False


def panels(run: RunDirectory, metrics: Sequence[str] = ()) -> tuple[Panel, ...]:
    """What the training logged (by default all names with loss, else the first), and how busy its GPUs were.

    Raises UsageError for a metric that was not logged, naming those that were.
    """
    logged = curves.metrics(run.metrics_file)
    names = logged["names"]
    if unknown := [name for name in metrics if name not in names]:
        known = ", ".join(one_line(name, 40) for name in names) or "nothing"
        raise UsageError(f"{run.token} has not logged {one_line(unknown[0])!r}", hint=f"it logged {known}")
    chosen = metrics or [name for name in names if "loss" in name.lower()] or names[:1]
    x, axis = _axis(logged)
    lines = [_curve(name, x, logged["columns"][names.index(name)]) for name in chosen]
    found = [Panel(", ".join(line.name for line in lines), axis, tuple(lines))] if lines else []
    measured = curves.gpus(read_view(run).attempts)
    if measured["x"]:
        x, axis = _axis(measured)
        columns = zip(measured["names"], measured["columns"], strict=True)
        lines = [_curve(name, x, column) for name, column in columns]
        found.append(Panel("GPU utilisation, %", axis, tuple(lines), percent=True))
    return tuple(found)


def _axis(facts: dict[str, object]) -> tuple[list[float], str]:
    x = list(facts["x"])  # type: ignore[call-overload]
    if facts["axis"] == "step":
        return x, "step"
    return [(at - x[0]) / 60 for at in x], "minutes"


def _curve(name: str, x: Sequence[float], y: Sequence[float | None]) -> Curve:
    return Curve(one_line(name, 40), tuple(x), tuple(y))


def terminal(found: Sequence[Panel], width: int, height: int, *, colours: bool) -> str:
    """The panels, one below the other, each ``height`` lines. Raises HpcpoolsError without plotext."""
    try:
        import plotext
    except ModuleNotFoundError:
        raise HpcpoolsError("a plot in the terminal needs plotext", hint=HINT) from None
    drawn = []
    for panel in found:
        plotext.clear_figure()
        plotext.theme("clear" if not colours else "pro")
        plotext.plotsize(width, height)
        plotext.title(panel.title)
        plotext.xlabel(panel.axis)
        for number, curve in enumerate(panel.curves):
            colour = ("blue+", "orange+", "green+", "red+")[number % 4]
            for part, (x, y) in enumerate(_whole(curve)):
                plotext.plot(x, y, label=curve.name if part == 0 else None, color=colour)
        if panel.axis == "step":
            ends = [x for curve in panel.curves for x in (curve.x[0], curve.x[-1])]
            ticks = [round(min(ends) + (max(ends) - min(ends)) * part / 4) for part in range(5)]
            plotext.xticks(ticks, [str(tick) for tick in ticks])  # its own are fractions
        if panel.percent:
            plotext.ylim(0, 100)
        text = plotext.build()
        drawn.append(text if colours else plotext.uncolorize(text))
    return "\n".join(drawn)


def _whole(curve: Curve) -> list[tuple[list[float], list[float]]]:
    """The pieces of a curve between its gaps."""
    pieces: list[tuple[list[float], list[float]]] = [([], [])]
    for x, y in zip(curve.x, curve.y, strict=True):
        if y is None and pieces[-1][0]:
            pieces.append(([], []))
        elif y is not None:
            pieces[-1][0].append(x)
            pieces[-1][1].append(y)
    return [piece for piece in pieces if piece[0]]


def file(found: Sequence[Panel], path: Path, title: str) -> None:
    """Draw into a .png or .svg. Raises UsageError for another suffix, HpcpoolsError without matplotlib."""
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise UsageError(f"{one_line(str(path))} is neither .png nor .svg", hint="name it so")
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise HpcpoolsError(f"a plot as {kind} needs matplotlib", hint=HINT) from None
    with mpl.rc_context({"text.parse_math": False, "svg.fonttype": "path"}):  # $ in a name is a character
        figure = Figure(figsize=(9, 3.6 * len(found)), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(one_line(title, 80), fontsize="medium")
        for number, panel in enumerate(found, start=1):
            axes = figure.add_subplot(len(found), 1, number)
            axes.set(title=panel.title, xlabel=panel.axis)
            axes.grid(alpha=0.3)
            if panel.percent:
                axes.set_ylim(0, 102)
            for curve in panel.curves:
                gapped = [float("nan") if value is None else value for value in curve.y]
                (line,) = axes.plot(curve.x, gapped, linewidth=1.4)
                line.set_label(curve.name if not curve.name.startswith("_") else f" {curve.name}")
            axes.legend(loc="best", fontsize="small")
        out = io.BytesIO()
        figure.savefig(out, format=kind[1:], dpi=130, metadata={"Date": None} if kind == ".svg" else None)
    try:
        atomic.write_bytes(path, out.getvalue())
    except OSError as error:
        raise HpcpoolsError(f"cannot write {path}: {error.strerror}", hint="name another file") from None
