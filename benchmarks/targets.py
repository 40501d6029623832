"""What the product promises itself, each as a number that a result either reaches or misses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.systems import LATE, UNSIGNED

US = "hpcpools"
TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Target:
    """``path``: where the number stands in the results; ``over``: what it is divided by."""

    what: str
    limit: float
    path: tuple[str, ...]
    over: tuple[str, ...] = ()
    at_least: bool = False
    unit: str = ""

    @property
    def text(self) -> str:
        """Such as ``≥ 3``, with the unit."""
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}{self.unit}"

    def met(self, value: float) -> bool:
        """Whether ``value`` reaches it."""
        return value >= self.limit if self.at_least else value <= self.limit

    def measured(self, results: Mapping[str, Any]) -> float | None:
        """The number, or None if it was not measured."""
        value = _at(results, self.path)
        if value is None or not self.over:
            return value
        other = _at(results, self.over)
        return value / other if other else None


def _at(results: Any, path: tuple[str, ...]) -> float | None:
    for key in path:
        if not isinstance(results, Mapping) or key not in results:
            return None
        results = results[key]
    return float(results)


def _short(kind: str, system: str, measure: str, *more: str) -> tuple[str, ...]:
    return ("short_tasks", kind, "systems", system, measure, *more)


def _ratio(kind: str, measure: str) -> tuple[str, ...]:
    return _short(kind, US, measure, "ratio", "median")


def _command(name: str) -> tuple[str, ...]:
    return ("cli_start", "commands", name, "ms", "ratio", "median")


def _load(words: str) -> tuple[str, ...]:
    return ("load", "commands", f"hpcpools {words}", "s", "high")


_RQ = _short("plain", "rq", "drain", "ratio", "median")
_HUEY = _short("plain", "huey", "drain", "ratio", "median")
TORCH_PSS = _ratio("torch", "pss_mib")
_LATE = _short("torch", LATE, "pss_mib", "median")
_UNSIGNED = _short("plain", UNSIGNED, "cpu_ms", "median")
_GROUP = _short("plain", "celery", "enqueue_many", "median")

TARGETS = (
    Target("drain rate against Celery", 3, _ratio("plain", "drain"), at_least=True, unit=TIMES),
    Target("drain rate against stock RQ", 28, _ratio("plain", "drain"), _RQ, at_least=True, unit=TIMES),
    Target("drain rate against huey (an aim)", 1, _ratio("plain", "drain"), _HUEY, at_least=True, unit=TIMES),
    Target("p50 latency against Celery", 0.8, _ratio("plain", "p50_ms"), unit=TIMES),
    Target("p99 latency against Celery", 1.0, _ratio("plain", "p99_ms"), unit=TIMES),
    Target("round trips a task", 1.1, _short("plain", US, "round_trips", "median")),
    Target("bulk enqueue against Celery's group", 9, _short("plain", US, "enqueue_many", "median"), _GROUP,
           at_least=True, unit=TIMES),
    Target("torch task: rate against Celery", 3, _ratio("torch", "drain"), at_least=True, unit=TIMES),
    Target("signatures checked: CPU a task against none", 1.1, _short("plain", US, "cpu_ms", "median"),
           _UNSIGNED, unit=TIMES),
    Target("torch preloaded: PSS against Celery whose task imports it", 0.4,
           _short("torch", US, "pss_mib", "median"), _LATE, unit=TIMES),
    Target("torch preloaded: PSS against Celery that preloads it too", 0.4, TORCH_PSS, unit=TIMES),
    Target("PSS idle, 4 workers, no torch", 100, _short("plain", US, "pss_mib", "median"), unit=" MiB"),
    Target("CPU idle", 1, _short("plain", US, "cpu_idle_percent", "median"), unit=" %"),
    *(Target(f"100 000 runs and short jobs: slowest page, {how}", 1000, ("load", "slowest page ms", how),
             unit=" ms") for how in ("with the index", "without the index")),
    Target("`hpcpools status` with these", 1, _load("status"), unit=" s"),
    Target("`hpcpools gc` of 100 000 old runs", 60, _load("gc --older-than 1s --json"), unit=" s"),
    Target("`hpcpools reconcile` of them, Redis wiped", 60, _load("reconcile, Redis wiped"), unit=" s"),
    Target("`hpcpools --help` against `python -c pass`", 4, _command("hpcpools --help"), unit=TIMES),
    Target("`hpcpools status` against `python -c pass`", 4, _command("hpcpools status"), unit=TIMES),
    Target("sbatch calls for N runs of a sweep", 1,
           ("submit", "ways", "hpcpools sweep", "sbatch_calls", "high")),
    Target("`update_job_metrics` while training holds all nodes, p99", 10_000,
           ("headline", "calls", "update_job_metrics", "p99_ms"), unit=" ms"),
    Target("an evaluation meanwhile, p99", 50, ("headline", "calls", "evaluate", "p99_ms"), unit=" ms"),
)  # fmt: skip
