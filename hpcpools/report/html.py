"""A report as one HTML file: style and drawings are inside, nothing is loaded, no script runs.

Every text from outside passes :func:`safe`.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Sequence
from html import escape

from hpcpools import durations
from hpcpools.report import svg
from hpcpools.report.facts import Report, Task
from hpcpools.runs.usage import Hours
from hpcpools.textsafe import one_line

_NUMBER = re.compile(r"[0-9.,]+")
LONG = 40  # characters of a cell that may be broken
MOST_RUNS = 100  # rows; the CSV has all
TONES = {"COMPLETED": "good", "RUNNING": "busy", "FAILED": "bad", "LOST": "bad", "OUT_OF_MEMORY": "bad"}
TONES |= {"TIMEOUT": "warn", "CANCELLED": "warn"}
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --dim: #5b6675; --line: #d8dee6; --page: #fff;
  --good: #2e8b57; --busy: #2f6fb5; --bad: #c0392b; --warn: #b7791f; --still: #7b8794; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e8ef; --dim: #9aa7b6; --line: #333d4a;
  --page: #12171d; --good: #58b37f; --busy: #6aa5e3; --bad: #e57368; --warn: #d9a441; --still: #94a3b3; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); margin: 2rem auto;
  max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
.dim { color: var(--dim); } .scroll { overflow-x: auto; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.2rem 0; }
.figures div { border: 1px solid var(--line); border-radius: 6px; padding: .6rem 1rem; flex: 1 1 9rem; }
.figures b { display: block; font-size: 1.35rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .3rem 1rem .3rem 0; border-bottom: 1px solid var(--line);
  white-space: nowrap; vertical-align: top; }
th { color: var(--dim); font-weight: 600; }
td.w { white-space: normal; overflow-wrap: anywhere; min-width: 14rem; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; font: 12px system-ui, sans-serif; fill: var(--ink); margin: .4rem 0; }
svg line { stroke: var(--line); }
.good { fill: var(--good); } .busy { fill: var(--busy); } .bad { fill: var(--bad); }
.warn { fill: var(--warn); } .still { fill: var(--still); }
"""


def page(report: Report) -> str:
    """The whole file."""
    span = f"{_clock(report.since)} to {_clock(report.until)}"
    body = "".join(
        [
            f"<h1>hpcpools report</h1><p class=dim>{safe(span)}</p>",
            _figures(report),
            _timeline(report),
            _states(report),
            _runs(report),
            _waits(report),
            _short(report),
            _failures(report),
            _notes(report),
        ]
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>hpcpools report</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )


def safe(value: object, limit: int = 200) -> str:
    """One line of text, escaped for HTML."""
    return escape(one_line("" if value is None else str(value), limit))


def efficiency(hours: Hours) -> str:
    """The used part of the held hours; of the measured ones where not all were; never a guess."""
    return " ".join(part for part in _efficiency(hours) if part)


def _efficiency(hours: Hours) -> tuple[str, str]:
    """The share, and of what if not of all."""
    if not hours.measured:
        return ("unmeasured" if hours.held else "-"), ""
    whole = hours.measured >= 0.99 * hours.held
    share = f"{100 * hours.used / (hours.held if whole else hours.measured):.0f} %"
    return share, "" if whole else f"of {100 * hours.measured / hours.held:.0f} % measured"


def _figures(report: Report) -> str:
    hours = report.hours
    share, part = _efficiency(hours)
    failed = sum(len(group.failures) for group in report.failures)
    facts = (
        (f"{len(report.runs):,}", "trainings"),
        (f"{hours.held:,.1f}", "GPU-hours held"),
        (f"{hours.used:,.1f}" if hours.measured else "unmeasured", "GPU-hours used"),
        (share, f"efficiency {part}".rstrip()),
        (f"{failed:,}", f"failures of {len(report.failures)} kinds"),
    )
    return (
        f"<div class=figures>{''.join(f'<div><b>{safe(n)}</b>{safe(what)}</div>' for n, what in facts)}</div>"
    )


def _timeline(report: Report) -> str:
    bins = report.timeline
    at = (report.since + (report.until - report.since) * part / 4 for part in range(5))
    labels = [_clock(each)[:16] for each in at]
    gpus = svg.columns([[each.gpus for each in bins]], ["busy"], labels, "GPUs held by trainings over time")
    text = f"<h2>Timeline</h2><p class=dim>GPUs held by trainings</p>{gpus}"
    if report.missing:
        return text
    short = [[float(each.finished) for each in bins], [float(each.failed) for each in bins]]
    drawn = svg.columns(short, ["good", "bad"], labels, "short jobs ended over time: finished, failed")
    return (
        text
        + f"<p class=dim>short jobs that ended, finished and failed, as far as they are on record</p>{drawn}"
    )


def _states(report: Report) -> str:
    rows = [
        (hold.state, hold.hours.held, f"{hold.hours.held:,.1f} h, {hold.runs} runs") for hold in report.states
    ]
    bars = svg.bars(
        rows, [TONES.get(hold.state, "still") for hold in report.states], "GPU-hours held by state"
    )
    table = _table(
        ("state", "runs", "held", "used", "unmeasured", "efficiency"),
        [(hold.state, hold.runs, *_hours(hold.hours)) for hold in report.states],
    )
    return f"<h2>GPU-hours by state</h2>{bars}{table}"


def _runs(report: Report) -> str:
    rows = [
        (run.run, run.name, run.state, run.attempts, _length(run.waited), *_hours(run.hours))
        for run in report.runs[:MOST_RUNS]
    ]
    more = len(report.runs) - len(rows)
    note = f"<p class=dim>and {more} more, in runs.csv</p>" if more > 0 else ""
    heads = (
        "run",
        "name",
        "state",
        "attempts",
        "waited",
        "held",
        "used",
        "unmeasured",
        "efficiency",
    )
    return f"<h2>GPU-hours by run</h2>{_table(heads, rows)}{note}"


def _waits(report: Report) -> str:
    rows = [
        (wait.partition, wait.runs, _length(wait.p50), _length(wait.p95), _length(wait.longest))
        for wait in report.waits
    ]
    return (
        "<h2>Queue wait</h2><p class=dim>from submission to the first start, of runs that started</p>"
        + _table(("partition", "runs", "p50", "p95", "longest"), rows)
    )


def _short(report: Report) -> str:
    if report.missing:
        return f"<h2>Short tasks</h2><p>missing: {safe(report.missing)}</p>"
    rows = [
        (
            f"{task.kind} {task.name}",
            task.count,
            _length(task.mean),
            _bound(task, task.p50),
            _bound(task, task.p95),
        )
        for task in report.tasks
    ]
    told = "durations by task and waits by queue, of all tasks since Redis began to count"
    return f"<h2>Short tasks</h2><p class=dim>{told}</p>" + _table(
        ("what", "count", "mean", "p50", "p95"), rows
    )


def _failures(report: Report) -> str:
    rows = [
        (group.group, len(group.failures), group.pools, ", ".join(group.nodes), _clock(group.failures[-1].at))
        + (group.what,)
        for group in report.failures
    ]
    return "<h2>Failures</h2>" + _table(
        ("group", "count", "pool", "nodes", "last", "what"), rows, "nothing failed"
    )


def _notes(report: Report) -> str:
    if not report.unreadable:
        return ""
    told = f"{len(report.unreadable)} runs could not be read; the first: {report.unreadable[0]}"
    return f"<p class=dim>{safe(told, 400)}</p>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]], empty: str = "none") -> str:
    """Numbers stand to the right, long texts are broken."""
    cells = [["" if cell is None else one_line(str(cell)) for cell in row] for row in rows]
    if not cells:
        return f"<p>{safe(empty)}</p>"
    kinds = [_kind([row[at] for row in cells]) for at in range(len(heads))]
    head = "".join(f"<th{kind}>{safe(each)}</th>" for each, kind in zip(heads, kinds, strict=True))
    lines = []
    for row in cells:
        lines.append("".join(f"<td{kind}>{safe(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<div class=scroll><table><tr>{head}</tr>{body}</table></div>"


def _kind(column: Sequence[str]) -> str:
    if all(not text or _NUMBER.fullmatch(text) or text == "unmeasured" for text in column):
        return " class=n"
    return " class=w" if max(map(len, column)) > LONG else ""


def _hours(hours: Hours) -> tuple[str, ...]:
    if not hours.held:
        return ("", "", "", "-")
    used = f"{hours.used:,.2f}" if hours.measured else "unmeasured"
    return (f"{hours.held:,.2f}", used, f"{max(0.0, hours.held - hours.measured):,.2f}", efficiency(hours))


def _length(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return durations.age(seconds) if seconds >= 60 else f"{seconds:.3g} s"


def _bound(task: Task, value: float) -> str:
    """Histograms know classes, not values."""
    return "over 30 min" if math.isinf(value) else f"at most {_length(value)}"


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(at))
