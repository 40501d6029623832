"""`hpcpools up`, `down`, `restart`, `ps`, `worker`, `scheduler`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpcpools.cli.output import (
    ago,
    dry_run_option,
    json_option,
    load_config,
    note,
    show_json,
    show_table,
)

if TYPE_CHECKING:
    from hpcpools.config import Config


@click.command()
@click.argument("names", nargs=-1, metavar="[SERVICE]...")
def up(names: tuple[str, ...]) -> None:
    """Start the services, or the named ones, and keep them up: redis, short, scheduler, slot."""
    from hpcpools.services import control
    from hpcpools.training import engine

    config = load_config()
    _table(control.up(config, names, engine=engine.choose(config)))


@click.command()
@click.argument("names", nargs=-1, metavar="[SERVICE]...")
def down(names: tuple[str, ...]) -> None:
    """Stop the services, or the named ones. Trainings go on."""
    from hpcpools.services import control

    config = load_config()
    _table(control.down(config, names))
    for token in _local_trainings(config):
        note(f"the local training {token} goes on; `hpcpools cancel {token}` ends it")


@click.command()
@click.argument("names", nargs=-1, metavar="[SERVICE]...")
def restart(names: tuple[str, ...]) -> None:
    """Restart the services, or the named ones, with what depends on them."""
    from hpcpools.services import control

    _table(control.restart(load_config(), names))


@click.command()
@json_option
def ps(as_json: bool) -> None:
    """List the services."""
    from dataclasses import asdict

    from hpcpools.services import control

    states = control.ps(load_config())
    if as_json:
        show_json([asdict(state) for state in states])
    else:
        _table(states)


@click.command()
@click.option("--burst", is_flag=True, help="Stop when the queues are empty.")
@click.option("--workers", "-n", type=click.IntRange(1, 256), help="How many; the config's number otherwise.")
def worker(burst: bool, workers: int | None) -> None:
    """Run the short pool in the foreground; Ctrl-C ends it after the jobs at hand."""
    from hpcpools.config import activate
    from hpcpools.short import pool

    config = load_config()
    activate(config)
    click.get_current_context().exit(pool.run(config, burst=burst, workers=workers))


@click.command()
def scheduler() -> None:
    """Run the scheduler in the foreground; only one is live, a second one waits."""
    from hpcpools.config import activate
    from hpcpools.short import schedule

    config = load_config()
    activate(config)
    click.get_current_context().exit(schedule.run(config))


@click.command(name="redis-acl", epilog="Example: hpcpools redis-acl ~/.config/hpcpools/redis")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@json_option
@dry_run_option
def redis_acl(folder: Path, as_json: bool, dry_run: bool) -> None:
    """Write users, passwords and the signing key for a Redis that several login nodes share into FOLDER."""
    from hpcpools.redisdb import acl

    folder = folder.expanduser().absolute()
    made = acl.files(folder) if dry_run else acl.write(folder)
    if as_json:
        show_json({name: str(path) for name, path in made.items()})
        return
    for name, path in made.items():
        click.echo(f"{'would write ' if dry_run else ''}{path}  ({acl.PURPOSE[name]})")


def _local_trainings(config: Config) -> list[str]:
    from hpcpools.training import localruns, slot

    return [view.token for view in slot.pending(config) if localruns.alive(view)]


def _table(states: Sequence[Any]) -> None:
    show_table(
        ["SERVICE", "STATE", "PID", "SINCE", "RESTARTS", "LAST EXIT"],
        [[s.name, s.state, s.pid, ago(s.since), s.restarts, s.detail or s.last_exit] for s in states],
    )
