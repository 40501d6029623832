"""`hpcpools cleanup`, `pin`, `upkeep`."""

from __future__ import annotations

import click

from hpcpools.cli import complete
from hpcpools.cli.output import dry_run_option, json_option, load_config, note, on_terminal, show_json


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN]...", shell_complete=complete.runs)
@dry_run_option
@json_option
def cleanup(runs: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Remove checkpoints that [retention] does not keep, of all runs or the named ones."""
    from hpcpools.maintenance.cleanup import clean
    from hpcpools.training.handle import open_handle

    config = load_config()
    only = [open_handle(config, run).token for run in runs]
    if on_terminal() and not as_json:
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("runs", total=None)
            outcome = clean(
                config,
                dry_run=dry_run,
                only=only,
                heed=lambda done, total: progress.update(task, completed=done, total=total),
            )
    else:
        outcome = clean(config, dry_run=dry_run, only=only)
    if as_json:
        show_json({**outcome.summary(), "paths": [str(path) for path in outcome.removed]})
        return
    for path in outcome.removed:
        click.echo(f"{'would remove' if dry_run else 'removed'} {path}")
    verb = "would be freed" if dry_run else "freed"
    click.echo(f"{len(outcome.removed)} checkpoints, {outcome.bytes_ / 2**20:.1f} MiB {verb}")
    for problem in outcome.problems:
        note(f"left alone: {problem}")


@click.command()
@click.argument("run", shell_complete=complete.runs)
@click.argument("step", type=click.IntRange(0))
@click.option("--off", is_flag=True, help="No longer keep it.")
def pin(run: str, step: int, off: bool) -> None:
    """Keep the checkpoint of STEP from ever being removed."""
    from hpcpools.runs import checkpoints
    from hpcpools.training.handle import open_handle

    handle = open_handle(load_config(), run)
    checkpoints.pin(handle.directory.checkpoints, step, not off)
    click.echo(f"{handle.token} step {step} {'is no longer pinned' if off else 'is pinned'}")


@click.command()
@click.argument(
    "task",
    type=click.Choice(
        ["update_job_metrics", "scan_failed_jobs", "cleanup_old_checkpoints", "advance_pipelines"]
    ),
)
@json_option
def upkeep(task: str, as_json: bool) -> None:
    """Run one upkeep task now, in this process, and print its summary as JSON."""
    from hpcpools import maintenance
    from hpcpools.config import activate

    del as_json  # a summary is always JSON
    activate(load_config())
    show_json(getattr(maintenance, task)())
