"""`hpcpools failures`, `retry`: what failed in both pools, in groups of the same failure."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from hpcpools.cli import complete
from hpcpools.cli.output import ago, dry_run_option, json_option, load_config, note, show_json, show_table

if TYPE_CHECKING:
    from hpcpools.config import Config
    from hpcpools.failures.groups import Failure, Group

since_option = click.option("--since", default="7d", show_default=True, metavar="TIME", help="How far back.")


@click.command()
@since_option
@click.option("--group", "-g", default="", metavar="ID", help="All of one group, with an example in full.")
@json_option
def failures(since: str, group: str, as_json: bool) -> None:
    """List failed runs and short jobs, grouped by what went wrong."""
    config = load_config()
    if group:
        _one(_find(config, since, group), as_json)
        return
    rows, missing = _groups(config, since)
    if as_json:
        show_json({"groups": [_facts(row) for row in rows], "missing": missing})
        return
    show_table(
        ["GROUP", "COUNT", "POOL", "NODES", "LAST", "WHAT"],
        [
            [row.group, len(row.failures), row.pools, ",".join(row.nodes), ago(row.failures[-1].at), row.what]
            for row in rows
        ],
        empty="nothing failed",
    )
    if missing:
        note(f"short jobs are not among them: {missing}")
    elif rows:
        note(f"`hpcpools retry --group {rows[0].group}` tries the first group again")


@click.command(epilog="Example: hpcpools retry --group 3f9a --dry-run")
@click.argument("names", nargs=-1, metavar="[RUN|JOB]...", shell_complete=complete.runs)
@click.option("--group", "-g", default="", metavar="ID", help="Everything in one group of `failures`.")
@since_option
@json_option
@dry_run_option
def retry(names: tuple[str, ...], group: str, since: str, as_json: bool, dry_run: bool) -> None:
    """Try failed runs and short jobs again: the same run or job, with its frozen code."""
    config = load_config()
    if bool(names) == bool(group):
        raise click.UsageError("name runs and jobs, or --group ID")
    if group:
        found = _find(config, since, group).failures
        names = tuple(each.name for each in found)
    runs = [name for name in names if name.startswith("hp-")]
    jobs = [name for name in names if not name.startswith("hp-")]
    done = _retry_runs(config, runs, dry_run) + _retry_jobs(config, jobs, dry_run)
    if as_json:
        show_json({"retried": done, "dry_run": dry_run})
        return
    for name in done:
        click.echo(f"would retry {name}" if dry_run else name)
    if len(done) < len(names):
        note(f"{len(names) - len(done)} were left alone: they are being tried already, or are gone")


def _retry_runs(config: Config, names: list[str], dry_run: bool) -> list[str]:
    from hpcpools.training import retry as again
    from hpcpools.training.handle import open_handle

    views = [open_handle(config, name).view() for name in names]
    for view in views:
        again.check(view)
    return [view.token for view in views] if dry_run else again.retry(config, views, note)


def _retry_jobs(config: Config, names: list[str], dry_run: bool) -> list[str]:
    from hpcpools.errors import NotFoundError, RefusedError
    from hpcpools.short import control

    done = []
    for name in names:
        try:
            control.requeue(config, name, dry_run=dry_run)
        except (NotFoundError, RefusedError) as error:
            if len(names) == 1:
                raise
            note(error.message)
        else:
            done.append(name)
    return done


def _groups(config: Config, since: str) -> tuple[list[Group], str]:
    """The groups; why short jobs are not among them, if so."""
    from hpcpools import durations
    from hpcpools.errors import RedisUnavailableError
    from hpcpools.failures import groups

    after = time.time() - durations.seconds(since)
    found: list[Failure] = list(groups.of_runs(config, after))
    missing = ""
    try:
        found += groups.of_jobs(config, after)
    except RedisUnavailableError as error:
        missing = error.message
    return groups.grouped(found), missing


def _find(config: Config, since: str, name: str) -> Group:
    from hpcpools.failures import groups

    return groups.find(_groups(config, since)[0], name)


def _one(group: Group, as_json: bool) -> None:
    from hpcpools.textsafe import printable

    if as_json:
        show_json(_facts(group) | {"failures": [asdict(each) for each in group.failures]})
        return
    click.echo(f"{group.group}  {printable(group.what)}\n")
    show_table(
        ["NAME", "POOL", "TASK", "CAUSE", "NODES", "WHEN"],
        [[e.name, e.pool, e.task, e.cause, ",".join(e.nodes), ago(e.at)] for e in group.failures],
    )
    if text := group.failures[-1].text.strip():
        click.echo(f"\nthe newest:\n{printable(text)}")


def _facts(group: Group) -> dict[str, Any]:
    return {
        "group": group.group,
        "count": len(group.failures),
        "what": group.what,
        "pools": group.pools,
        "tasks": list(group.tasks),
        "nodes": list(group.nodes),
        "first": group.failures[0].at,
        "last": group.failures[-1].at,
        "names": [each.name for each in group.failures],
    }
