"""Numbers out of rounds: medians, ranges, ratios paired within a round; results kept as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

PUBLISHED = Path(__file__).parent / "results"
RESULTS = Path(
    os.environ.get("BENCH_RESULTS") or PUBLISHED
)  # `--results DIR`: a try, which publishes nothing
LATEST = RESULTS / "latest.json"
Round = Mapping[str, Mapping[str, float]]  # system → measure → value


@dataclass(frozen=True)
class Spread:
    """A median with the lowest and the highest value, and of how many."""

    median: float
    low: float
    high: float
    of: int

    def as_dict(self) -> dict[str, float]:
        """Rounded for a file that people read."""
        return {name: float(f"{value:.4g}") for name, value in vars(self).items()}


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    return Spread(statistics.median(values), min(values), max(values), len(values))


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` (0 to 1) of all lie, by nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def summary(rounds: Sequence[Round], base: str) -> dict[str, dict[str, dict[str, Any]]]:
    """system → measure → spread of the values, and of the ratios to ``base`` in the same round."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    systems = dict.fromkeys(system for each in rounds for system in each)
    for system in systems:
        mine = [each for each in rounds if system in each]
        for measure in dict.fromkeys(name for each in mine for name in each[system]):
            values = [each[system][measure] for each in mine if measure in each[system]]
            entry: dict[str, Any] = spread(values).as_dict()
            ratios = [
                each[system][measure] / each[base][measure]
                for each in mine
                if measure in each[system] and each.get(base, {}).get(measure)
            ]
            if ratios:
                entry["ratio"] = spread(ratios).as_dict()
            found.setdefault(system, {})[measure] = entry
    return found


def table(rounds: Sequence[Round], base: str, columns: Sequence[str]) -> str:
    """The summary as text: median, and in brackets the ratio to ``base`` with its range."""
    found = summary(rounds, base)
    lines = ["  ".join([f"{'':24}", *(f"{name:>26}" for name in columns)])]
    for system, measures in found.items():
        cells = []
        for name in columns:
            entry = measures.get(name)
            text = "-" if entry is None else f"{entry['median']:.4g}"
            if entry and "ratio" in entry and system != base:
                ratio = entry["ratio"]
                text += f" ({ratio['median']:.3g}x {ratio['low']:.3g}-{ratio['high']:.3g})"
            cells.append(f"{text:>26}")
        lines.append("  ".join([f"{system:24}", *cells]))
    return "\n".join(lines)


def versions(*packages: str) -> str:
    """Such as ``rq 3.0.0, hiredis -``: what is installed here, or a dash."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            found.append(f"{package} -")
    return ", ".join(found)


def save(name: str, result: Mapping[str, Any], **how: Any) -> None:
    """Put one benchmark's result beside the others; ``how`` tells the conditions."""
    RESULTS.mkdir(exist_ok=True)
    kept = json.loads(LATEST.read_text()) if LATEST.exists() else {}
    about = {
        "at": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **how,
    }
    kept[name] = {"how": about, **result}
    LATEST.write_text(json.dumps(kept, indent=1) + "\n")
