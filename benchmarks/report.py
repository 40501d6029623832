"""Write what was measured into docs/performance.md, between its markers, and draw the picture there.

Reads benchmarks/results/latest.json alone, so the document shows what a command measured, misses included.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import figures, machine, targets
from benchmarks.systems import BASE, SYSTEMS
from benchmarks.targets import TIMES

PAGE = machine.ROOT / "docs" / "performance.md"
IMAGE = machine.ROOT / "docs" / "images" / "performance.svg"
Result = dict[str, Any]

DRAIN = (
    ("drain", "tasks/s"),
    ("p50_ms", "p50 ms"),
    ("p99_ms", "p99 ms"),
    ("round_trips", "round trips a task"),
)
COST = (("enqueue", "enqueue /s"), ("enqueue_many", "bulk /s"), ("cpu_ms", "CPU ms a task"))
SCHEDULE = (
    ("fired", "fired"),
    ("lost", "lost"),
    ("drift ms", "drift ms a firing"),
    ("late p50 ms", "late p50 ms"),
    ("late max ms", "late max ms"),
)
SUBMIT = (("ms_per_run", "ms a run"), ("seconds", "s in all"), ("sbatch_calls", "sbatch calls"))
REST = (("pss_mib", "PSS MiB"), ("processes", "processes"), ("cpu_idle_percent", "CPU idle %"))


def main(_argv: Sequence[str] | None = None) -> int:
    """0 if there was something to write."""
    if not figures.LATEST.exists():
        print("nothing has been measured yet: `make bench`", file=sys.stderr)
        return 1
    results: Result = json.loads(figures.LATEST.read_text())
    published = figures.RESULTS == figures.PUBLISHED
    page, image = (PAGE, IMAGE) if published else (figures.RESULTS / PAGE.name, figures.RESULTS / IMAGE.name)
    page.write_text(render(PAGE.read_text(), results))
    systems = results.get("short_tasks", {}).get("plain", {}).get("systems", {})
    if BASE in systems:
        draw(systems, image)
    print(f"wrote {page}")
    return 0


def render(page: str, results: Result) -> str:
    """The page with every table as the results say. Raises ValueError if one has no place."""
    for name, table in PARTS.items():
        before, mark, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not end:
            raise ValueError(f"{PAGE.name} has no place for {name}")
        page = f"{before}{mark}{table(results)}\n{end}{after}"
    return page


def conditions(results: Result) -> str:
    """When and under what each benchmark ran."""
    rows = []
    for name, result in results.items():
        how = dict(result["how"])
        kind = "smoke test, not a measurement" if how.pop("smoke", False) else "full"
        facts = ", ".join(f"{key} {value}" for key, value in how.items() if key != "at")
        rows.append([name, how["at"], kind, facts])
    return _table(["benchmark", "UTC", "kind", "conditions"], rows)


def compared(kind: str, columns: Sequence[tuple[str, str]]) -> Callable[[Result], str]:
    """A table of all systems: the median, and in brackets the ratio to Celery with its range."""

    def render(results: Result) -> str:
        systems = results.get("short_tasks", {}).get(kind, {}).get("systems", {})
        rows = [
            [name, *(_cell(measures.get(column), ratio=name != BASE) for column, _ in columns)]
            for name in SYSTEMS
            if (measures := systems.get(name))
        ]
        return _table(["system", *(title for _, title in columns)], rows)

    return render


def torch(results: Result) -> str:
    """The table, and what is the least that any pool can take: one process that only imports torch."""
    table = compared("torch", (*DRAIN[:3], REST[0]))(results)
    measured = results.get("short_tasks", {}).get("torch", {})
    least, systems = measured.get("floor", {}).get("pss_mib"), measured.get("systems", {})
    if least is None or BASE not in systems:
        return table
    floor, base = least["median"], systems[BASE]["pss_mib"]["median"]
    share = f"{floor / base:.2f}{TIMES}"
    note = f"One process that only imports torch takes {floor:.0f} MiB, {share} of a Celery that preloads it"
    limit = next(target.limit for target in targets.TARGETS if target.path == targets.TORCH_PSS)
    if limit * base < floor:
        note += f": {limit:g}{TIMES} of that, {limit * base:.0f} MiB, is less than torch takes once"
    return f"{table}\n\n{note}."


def named(benchmark: str, part: str, columns: Sequence[tuple[str, str]]) -> Callable[[Result], str]:
    """A table of one part of a benchmark."""

    def render(results: Result) -> str:
        found = results.get(benchmark, {}).get(part, {})
        rows = [
            [f"`{name}`", *(_cell(values.get(column), ratio=True) for column, _ in columns)]
            for name, values in found.items()
        ]
        return _table(["command", *(title for _, title in columns)], rows)

    return render


def pages(results: Result) -> str:
    """Median and slowest of each page, with the index of runs and without."""
    found = results.get("load", {}).get("pages", {})
    rows = [
        [name, *(f"{values[name][key]:.0f}" for values in found.values() for key in ("median", "high"))]
        for name in next(iter(found.values()), {})
    ]
    return _table(["page", *(f"{how}{key}, ms" for how in found for key in ("", ": slowest"))], rows)


def headline(results: Result) -> str:
    """The latency of short work on a full cluster."""
    calls = results.get("headline", {}).get("calls", {})
    rows = [[f"`{name}`", *(f"{values[key]:.1f}" for key in values)] for name, values in calls.items()]
    titles = [key.replace("_", " ") for key in next(iter(calls.values()), {})]
    return _table(["call", *titles], rows)


def aims(results: Result) -> str:
    """Each target with what was measured."""
    rows = []
    for target in targets.TARGETS:
        value = target.measured(results)
        verdict = "not measured" if value is None else "met" if target.met(value) else "**missed**"
        rows.append([target.what, target.text, "-" if value is None else f"{value:.3g}", verdict])
    smoke = [name for name, result in results.items() if result["how"].get("smoke")]
    warning = f"**From a smoke test, not a measurement: {', '.join(smoke)}.**\n\n" if smoke else ""
    return warning + _table(["measure", "target", "measured", ""], rows)


PARTS: dict[str, Callable[[Result], str]] = {
    "targets": aims,
    "drain": compared("plain", DRAIN),
    "cost": compared("plain", COST),
    "rest": compared("plain", REST),
    "torch": torch,
    "cli": named("cli_start", "commands", (("ms", "ms"),)),
    "status waiting": named("status", "all waiting", (("ms", "ms"),)),
    "status ended": named("status", "nearly all ended", (("ms", "ms"),)),
    "submit": named(
        "submit",
        "ways",
        SUBMIT,
    ),
    "schedule": named("schedule", "systems", SCHEDULE),
    "load pages": pages,
    "load commands": named("load", "commands", (("s", "s"), ("cpu_s", "s of CPU"))),
    "headline": headline,
    "conditions": conditions,
}


def draw(systems: Result, image: Path) -> None:
    """Drain rate and latency of every system, relative to Celery."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "hpcpools", "font.size": 9})  # the same data give the same file
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    shown = (
        ("drain", f"drain rate {TIMES} Celery (higher is better)"),
        ("p50_ms", f"p50 latency {TIMES} Celery (lower is better)"),
    )
    for axis, (measure, title) in zip(axes, shown, strict=True):
        names = [name for name in systems if measure in systems[name]]
        ratios = [systems[name][measure]["ratio"] for name in names]
        middle = [ratio["median"] for ratio in ratios]
        spans = [[r["median"] - r["low"] for r in ratios], [r["high"] - r["median"] for r in ratios]]
        colours = ["#1f6f8b" if name.startswith("hpcpools") else "#b5b5b5" for name in names]
        axis.barh(names, middle, xerr=spans, color=colours, ecolor="#444444", capsize=2)
        axis.axvline(1, color="#444444", linewidth=0.8, linestyle=":")
        axis.invert_yaxis()
        axis.set_title(title, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    image.parent.mkdir(exist_ok=True)
    figure.savefig(image, metadata={"Date": None})


def _cell(entry: Result | None, *, ratio: bool) -> str:
    if entry is None:
        return "-"
    text = _number(entry["median"], 3)
    if ratio and "ratio" in entry:
        found = entry["ratio"]
        text += f" ({_number(found['median'], 2)}{TIMES}"
        text += f", {_number(found['low'], 2)} to {_number(found['high'], 2)})" if found["of"] > 1 else ")"
    return text


def _number(value: float, digits: int) -> str:
    """With so many significant digits, but never as a power of ten."""
    return f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:.0f}"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "Not measured yet."
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
