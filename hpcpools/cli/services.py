"""`hpcpools up`, `down`, `restart`, `ps`, `worker`, `scheduler`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpcpools.cli import complete
from hpcpools.cli.output import (
    ago,
    dry_run_option,
    json_option,
    load_config,
    note,
    on_terminal,
    show_json,
    show_table,
)

if TYPE_CHECKING:
    from hpcpools.config import Config
    from hpcpools.services.state import ServiceState


@click.command()
@click.argument("names", nargs=-1, metavar="[SERVICE]...", shell_complete=complete.services)
@click.option(
    "--foreground", is_flag=True, help="Stay until Ctrl-C, SIGTERM or `down`: for systemd, containers."
)
@click.option("--take-over", is_flag=True, help="Have the pool stop on another login node, then start here.")
def up(names: tuple[str, ...], foreground: bool, take_over: bool) -> None:
    """Start the services, or the named ones, and keep them up: redis, short, scheduler, lane, slot."""
    from hpcpools.services import control
    from hpcpools.training import engine

    config = load_config()
    where = engine.choose(config)
    if foreground:
        from hpcpools.services import daemon, table

        daemon.foreground(config, names or table.default_names(config, where), take_over=take_over, note=note)
        return
    states = control.up(config, names, engine=where, take_over=take_over, note=note)
    _table(states)
    _rebuild(config, states)


@click.command()
@click.argument("names", nargs=-1, metavar="[SERVICE]...", shell_complete=complete.services)
@click.option("--drain", is_flag=True, help="First let running short jobs end; new ones wait in Redis.")
@click.option("--timeout", metavar="TIME", help="With --drain: stop after so long all the same.  [10m]")
def down(names: tuple[str, ...], drain: bool, timeout: str | None) -> None:
    """Stop the services, or the named ones. Trainings go on."""
    from hpcpools import durations
    from hpcpools.services import control

    if timeout and not drain:
        raise click.UsageError("--timeout goes with --drain")
    if drain and names and not {"short", "redis"} & set(names):
        raise click.UsageError("--drain is about the short pool: name short, or nothing")
    config = load_config()
    if drain:
        _drain(config, durations.seconds(timeout or "10m"))
    _table(control.down(config, names))
    for token in _local_trainings(config):
        note(f"the local training {token} goes on; `hpcpools cancel {token}` ends it")


@click.command()
@click.argument("names", nargs=-1, metavar="[SERVICE]...", shell_complete=complete.services)
def restart(names: tuple[str, ...]) -> None:
    """Restart the services, or the named ones, with what depends on them."""
    from hpcpools.services import control

    _table(control.restart(load_config(), names))


@click.command()
@click.argument("names", nargs=-1, metavar="[SERVICE]...", shell_complete=complete.services)
@click.option("--check", is_flag=True, help="Fail unless all that is up runs: for health checks.")
@json_option
def ps(names: tuple[str, ...], check: bool, as_json: bool) -> None:
    """List the services, or the named ones."""
    from hpcpools.services import control

    config = load_config()
    states = control.named(control.ps(config), names)
    if as_json:
        show_json(states)
    else:
        _table(states)
    _tell_elsewhere(config)
    if check:
        control.check(states)


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


def _drain(config: Config, timeout: float) -> None:
    """Stop the short pool once its jobs have ended; after ``timeout`` seconds they go back to the queues."""
    from hpcpools.services import control
    from hpcpools.short import drain

    if not any(state.name == "short" and state.pid for state in control.ps(config)):
        return
    with ExitStack() as stack:
        held = stack.enter_context(drain.held(config))
        show = _progress(stack)
        try:
            left = held.wait(timeout, show)
        except KeyboardInterrupt:
            note("nothing was stopped; the pool takes jobs again")
            raise
        if left:
            note(f"{left} short jobs still run after {timeout:g} s; they go back to their queues")
        control.down(config, ["short"])


def _progress(stack: ExitStack) -> Callable[[int], None]:
    """What tells how many jobs still run: a line that is redrawn on a terminal, else one line."""
    if on_terminal():
        from rich.console import Console

        status = stack.enter_context(Console(stderr=True).status("waiting"))
        return lambda running: status.update(f"{running} short jobs still run; Ctrl-C leaves them running")
    told: list[int] = []

    def tell(running: int) -> None:
        if running and not told:
            told.append(running)
            note(f"waiting for {running} short jobs")

    return tell


def _rebuild(config: Config, states: Sequence[ServiceState]) -> None:
    """After a wiped Redis, put the index back at once: upkeep would do it within a minute."""
    from hpcpools.config import activate
    from hpcpools.errors import HpcpoolsError
    from hpcpools.maintenance import reconcile

    if any(state.name == "redis" and state.state != "running" for state in states):
        return
    try:
        if not reconcile.wiped(config):
            return
        activate(config)
        found = reconcile.reconcile(config)
    except HpcpoolsError as error:
        note(f"the index is not there yet: {error}; `hpcpools reconcile` makes it")
        return
    note(f"Redis was empty: {found.runs} runs are indexed again, {len(found.jobs)} short jobs enqueued again")


def _tell_elsewhere(config: Config) -> None:
    from hpcpools.services import place

    if (there := place.elsewhere(config)) and not there.stale:
        note(f"the pool of {config.root} lives on {there}")


def _local_trainings(config: Config) -> list[str]:
    from hpcpools.training import localruns, slot

    return [view.token for view in slot.pending(config) if localruns.alive(view)]


def _table(states: Sequence[Any]) -> None:
    show_table(
        ["SERVICE", "STATE", "PID", "SINCE", "RESTARTS", "LAST EXIT"],
        [[s.name, s.state, s.pid, ago(s.since), s.restarts, s.detail or s.last_exit] for s in states],
    )
