"""`hpcpools suspend`, `resume`, `requeue`: acting on the short pool and its failed jobs."""

from __future__ import annotations

import click

from hpcpools.cli.output import dry_run_option, json_option, load_config, note, show_json


@click.command(epilog="Example: hpcpools suspend --for 10m")
@click.option("--for", "for_", metavar="TIME", help="Resume by itself after this long.")
def suspend(for_: str | None) -> None:
    """No worker takes another short job; what runs goes on. Upkeep waits, too."""
    from hpcpools import durations
    from hpcpools.short import control

    seconds = None if for_ is None else durations.seconds(for_)
    control.suspend(load_config(), seconds)
    note("suspended; `hpcpools resume` ends it" + ("" if seconds is None else f", or {for_} of waiting"))


@click.command()
def resume() -> None:
    """Workers take short jobs again."""
    from hpcpools.short import control

    note("resumed" if control.resume(load_config()) else "it was not suspended")


@click.command()
@click.argument("jobs", nargs=-1, metavar="JOB...")
@click.option("--all", "all_", is_flag=True, help="All failed jobs.")
@click.option("--queue", "-q", help="With --all: only of this queue.")
@click.option("--front", is_flag=True, help="Ahead of the jobs that wait already.")
@dry_run_option
@json_option
def requeue(
    jobs: tuple[str, ...], all_: bool, queue: str | None, front: bool, dry_run: bool, as_json: bool
) -> None:
    """Put failed, stopped or cancelled short jobs back into their queues, with all their retries."""
    from hpcpools.errors import UsageError
    from hpcpools.short import control

    if bool(jobs) == all_ or (queue and not all_):
        raise UsageError("name jobs, or give --all", hint="--queue goes with --all")
    config = load_config()
    names = control.failed_jobs(config, queue) if all_ else list(jobs)
    before = {name: control.requeue(config, name, at_front=front, dry_run=True) for name in names}
    if not dry_run:
        for name in before:
            control.requeue(config, name, at_front=front)
    if as_json:
        show_json([{"job": name, "was": state, "dry_run": dry_run} for name, state in before.items()])
        return
    for name, state in before.items():
        click.echo(f"would put back {name} ({state})" if dry_run else f"{name}  queued, was {state}")
