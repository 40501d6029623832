"""Upkeep: ordinary short tasks on the ``maintenance`` queue, fired by the schedule.

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
    """Remove the checkpoints that the retention policy does not keep, and runs it keeps no longer."""
    from hpcpools.maintenance import gc
    from hpcpools.maintenance.cleanup import clean

    config = configuration.load()
    done = clean(config, dry_run=dry_run).summary()
    if config.retention.runs is not None:
        done["gc"] = gc.collect(config, config.retention.runs, dry_run=dry_run).summary()
    return done


@task(queue="maintenance", timeout="2m", retries=6)
def deliver_notification(event: str, facts: dict[str, Any], receiver: str) -> str:
    """Hand one notification to its receiver (hook or webhook); a failure is retried by the pool."""
    from hpcpools.maintenance.delivery import deliver

    return deliver(configuration.load(), event, facts, receiver)


@task(queue="maintenance", timeout="5m", retries=0, result_ttl="1m")
def advance_pipelines() -> dict[str, Any]:
    """Bring every pipeline forward, and have each new checkpoint evaluated once."""
    from hpcpools.pipeline import record

    config = configuration.load()
    done: dict[str, Any] = {}
    if record.live_ids(config.root):  # most ticks find nothing, and import nothing
        from hpcpools.pipeline import advance

        done = advance.advance_all(config)
    if config.continuous_evaluation:
        from hpcpools.pipeline import evaluate

        done["evaluations"] = evaluate.scan(config)
    return done


@task(queue="maintenance")
def run_call(task: str, file: str) -> Any:
    """A stage or an evaluation: ``task`` with the arguments in ``file``; its end is written beside it."""
    from hpcpools.pipeline import call

    return call.run(configuration.load(), task, file)
