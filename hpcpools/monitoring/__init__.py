"""Metrics for Prometheus, and the alert rules and the Grafana dashboard that go with them.

Reads what others keep: Redis, the index of the runs, Slurm's last answer. Refuses to run a Slurm command, to
open a run's files, and to make a label of anything whose number has no bound.
"""

from __future__ import annotations

from importlib import resources

SHIPPED = {"alerts": "alerts.yml", "grafana": "grafana.json"}


def shipped(name: str) -> str:
    """The text of a file in :data:`SHIPPED`."""
    return (resources.files(__name__) / SHIPPED[name]).read_text(encoding="utf-8")
