"""`hpcpools reconcile`: after Redis lost its data."""

from __future__ import annotations

import click

from hpcpools.cli.output import (
    dry_run_option,
    json_option,
    load_config,
    note,
    on_terminal,
    show_facts,
    show_json,
)


@click.command(epilog="Example: hpcpools reconcile --dry-run")
@dry_run_option
@json_option
def reconcile(dry_run: bool, as_json: bool) -> None:
    """Put back what Redis lost and the files know: the index, jobs of pipelines and evaluations."""
    from hpcpools.config import activate
    from hpcpools.maintenance import reconcile as rebuilding

    config = load_config()
    activate(config)
    if on_terminal() and not as_json and not dry_run:
        from rich.console import Console
        from rich.progress import Progress

        # No thread of its own: processes are forked meanwhile.
        with Progress(console=Console(stderr=True), transient=True, auto_refresh=False) as progress:
            task = progress.add_task("runs", total=None)
            found = rebuilding.reconcile(
                config,
                heed=lambda done, total: progress.update(task, completed=done, total=total, refresh=True),
            )
    else:
        found = rebuilding.reconcile(config, dry_run=dry_run)
    if as_json:
        show_json(found.summary())
        return
    would = "would be " if dry_run else ""
    lane = f"{found.lane} tasks in Slurm have no job any more; how they end stays in .lane"
    live = sum(state == "RUNNING" for state in found.pipelines.values())
    show_facts(
        [
            ("runs", f"{found.runs} {would}indexed; {found.missing} were missing, {found.stale} are gone"),
            ("pipelines", f"{live} not final" if live else ""),
            ("short jobs", f"{len(found.jobs)} of pipelines and evaluations {would}enqueued again"),
            ("lane", lane if found.lane else ""),
            ("schedules", f"{found.schedules}, which the scheduler enters by itself"),
            ("seconds", found.seconds),
        ]
    )
    if found.wiped:
        note("short jobs that were only in Redis are gone with it; how many there were cannot be known")
    for problem in found.problems[:20]:
        note(f"left alone: {problem}")
