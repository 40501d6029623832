"""Metric families under our prefix, and the histograms as Prometheus counts them.

Owns the prefix and the escape of label values. What a user or Redis wrote comes in as text that no terminal
obeys; the exposition format's own escapes are the library's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from hpcpools.textsafe import one_line

PREFIX = "hpcpools_"
# The values of one label, or of several.
Labels = TypeVar("Labels", bound="str | tuple[str, ...]")


def gauge(name: str, text: str, value: float | None = None) -> GaugeMetricFamily:
    """One value; no sample at all for None."""
    family = GaugeMetricFamily(PREFIX + name, text, labels=())
    if value is not None:
        family.add_metric((), value)
    return family


def gauges(name: str, text: str, labels: str, values: Mapping[Labels, float | None]) -> GaugeMetricFamily:
    """One value for each combination of ``labels`` (names, separated by a space); None is left out."""
    family = GaugeMetricFamily(PREFIX + name, text, labels=labels.split())
    for key, value in values.items():
        if value is not None:
            family.add_metric(_values(key), value)
    return family


def counters(name: str, text: str, labels: str, values: Mapping[Labels, float]) -> CounterMetricFamily:
    """One count for each combination of ``labels``; the series' name ends in ``_total``."""
    family = CounterMetricFamily(PREFIX + name, text, labels=labels.split())
    for key, value in values.items():
        family.add_metric(_values(key), value)
    return family


def histograms(
    name: str,
    text: str,
    labels: str,
    bounds: Sequence[float],
    values: Mapping[Labels, tuple[Sequence[int], float]],
) -> HistogramMetricFamily:
    """For each combination of ``labels`` the counts per bucket (one more than ``bounds``) and the sum."""
    family = HistogramMetricFamily(PREFIX + name, text, labels=labels.split())
    for key, (counts, total) in values.items():
        family.add_metric(_values(key), buckets(bounds, counts), total)
    return family


def buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Counts per bucket, summed up as Prometheus wants them: each holds all that are smaller."""
    found, sum_ = [], 0
    for bound, count in zip([*map(float, bounds), float("inf")], counts, strict=True):
        sum_ += count
        found.append(("+Inf" if bound == float("inf") else str(bound), float(sum_)))
    return found


def _values(key: str | tuple[str, ...]) -> tuple[str, ...]:
    return tuple(one_line(each) for each in ((key,) if isinstance(key, str) else key))


__all__ = ["PREFIX", "Metric", "buckets", "counters", "gauge", "gauges", "histograms"]
