"""`hpcpools gc`."""

from __future__ import annotations

import click

from hpcpools.cli.output import dry_run_option, json_option, load_config, note, on_terminal, show_json


@click.command()
@click.option(
    "--older-than", metavar="TIME", help="What ended longer ago: 30d, 12h; [retention] runs if left out."
)
@dry_run_option
@json_option
def gc(older_than: str | None, dry_run: bool, as_json: bool) -> None:
    """Remove whole runs, sweeps and pipelines that ended long ago, and code that no run refers to.

    Live work, runs with a pinned checkpoint, and what a kept sweep or pipeline needs always stay.
    """
    from hpcpools import durations
    from hpcpools.errors import UsageError
    from hpcpools.maintenance.gc import collect

    config = load_config()
    age = config.retention.runs if older_than is None else durations.seconds(older_than)
    if age is None:
        raise UsageError(
            "how old must it be? nothing is removed unasked",
            hint='--older-than 30d, or runs = "30d" in [retention]',
        )
    if on_terminal() and not as_json:
        from rich.console import Console
        from rich.progress import Progress

        # No thread of its own: processes are forked meanwhile.
        with Progress(console=Console(stderr=True), transient=True, auto_refresh=False) as progress:
            task = progress.add_task("runs", total=None)
            outcome = collect(
                config,
                age,
                dry_run=dry_run,
                heed=lambda done, total: progress.update(task, completed=done, total=total, refresh=True),
            )
    else:
        outcome = collect(config, age, dry_run=dry_run)
    kinds = {"runs": outcome.runs, "sweeps": outcome.sweeps, "pipelines": outcome.pipelines}
    kinds["snapshots"] = outcome.snapshots
    if as_json:
        show_json({**outcome.summary(), **kinds})
        return
    verb = "would remove" if dry_run else "removed"
    for names in kinds.values():
        for name in names:
            click.echo(f"{verb} {name}")
    click.echo(f"{verb} " + ", ".join(f"{len(names)} {kind}" for kind, names in kinds.items()))
    for why, count in sorted(outcome.kept.items()):
        note(f"kept {count} old runs: {why}")
    for problem in outcome.problems:
        note(f"left alone: {problem}")
