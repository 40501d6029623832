"""Upkeep: three ordinary short tasks on the ``maintenance`` queue, fired by the schedule.

Each returns a small summary, which RQ keeps and `hpcpools status` shows.
"""

from __future__ import annotations

from typing import Any

from hpcpools import config as configuration
from hpcpools.declare import task


@task(queue="maintenance", timeout="5m", retries=0)
def update_job_metrics() -> dict[str, Any]:
    """One batched squeue for all live runs; states, ages and metric tails go into the index."""
    from hpcpools.maintenance.metrics import update

    return update(configuration.load())


@task(queue="maintenance", timeout="10m", retries=0)
def scan_failed_jobs() -> dict[str, Any]:
    """Give every ended run its verdict (cause, retryable or not); settle uncertain submissions."""
    from hpcpools.maintenance.failures import scan

    return scan(configuration.load())


@task(queue="maintenance", timeout="30m", retries=0)
def cleanup_old_checkpoints(dry_run: bool = False) -> dict[str, Any]:
    """Remove the checkpoints that the retention policy does not keep."""
    from hpcpools.maintenance.cleanup import clean

    return clean(configuration.load(), dry_run=dry_run).summary()
