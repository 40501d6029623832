"""`hpcpools status`: both pools on one screen; every fact says how old it is."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from hpcpools.cli.output import ago, fresh_option, json_option, load_config, note, show_json, show_table
from hpcpools.cli.runs import steps, watched

if TYPE_CHECKING:
    from hpcpools.config import Config


@click.command()
@click.option("--watch", "every", metavar="SECONDS", type=click.FloatRange(0.5), help="Redraw until Ctrl-C.")
@fresh_option
@json_option
def status(every: float | None, fresh: bool, as_json: bool) -> None:
    """Both pools on one screen, with the age of every fact."""
    config = load_config()
    if every is None:
        _once(config, fresh, as_json)
        return
    with contextlib.suppress(KeyboardInterrupt):  # the way to end it
        while True:
            if not as_json:
                click.clear()  # on a terminal only
                click.echo(f"{time.strftime('%H:%M:%S')}, every {every:g} s, Ctrl-C ends it\n")
            _once(config, fresh, as_json)
            sys.stdout.flush()
            time.sleep(every)


def _once(config: Config, fresh: bool, as_json: bool) -> None:
    problems: list[str] = []
    facts = {
        "at": time.time(),
        "config": config.file,
        "training": _try(problems, partial(_training, fresh=fresh), config),
        "queues": _try(problems, _queues, config),
        "workers": _try(problems, _workers, config),
        "schedule": _try(problems, _schedule, config),
        "services": _try(problems, _services, config),
        "problems": problems,
    }
    if as_json:
        show_json(facts)
        return
    _show(facts)
    for problem in problems:
        note(problem)


def _try(problems: list[str], read: Callable[[Config], Any], config: Config) -> Any:
    """One part of the screen; what does not answer leaves the rest readable."""
    from hpcpools.errors import HpcpoolsError

    try:
        return read(config)
    except HpcpoolsError as error:
        if str(error) not in problems:
            problems.append(str(error))
        return None


def _training(config: Config, *, fresh: bool = False) -> dict[str, Any]:
    from hpcpools import gpu
    from hpcpools.maintenance.metrics import summary
    from hpcpools.runs import directory
    from hpcpools.runs.directory import RunDirectory
    from hpcpools.runs.view import read_view
    from hpcpools.training import engine

    where = engine.choose(config)
    seen = watched(config, fresh=fresh)
    live = [summary(config, view) for view in seen.views]
    recent = Counter(
        read_view(RunDirectory(config.root, token)).state.value
        for token in directory.tokens(config.root)[:200]
    )
    return {
        "engine": where,
        "slurm_as_of": seen.as_of,
        "slurm_error": seen.error,
        "gpus_here": gpu.count() if where == "local" else None,
        "live": live,
        "newest_200_by_state": dict(recent),
    }


def _queues(config: Config) -> list[dict[str, object]]:
    from hpcpools.cli.short import queue_rows

    return queue_rows(config)


def _workers(config: Config) -> list[dict[str, Any]]:
    from hpcpools.short import views

    return [asdict(worker) for worker in views.workers(config)]


def _schedule(config: Config) -> list[dict[str, Any]]:
    from hpcpools.redisdb.connect import connect
    from hpcpools.short.timetable import schedule_view

    return [asdict(entry) for entry in schedule_view(config, connect(config))]


def _services(config: Config) -> list[dict[str, Any]]:
    from hpcpools.services import control

    return [asdict(state) for state in control.ps(config)]


def _show(facts: dict[str, Any]) -> None:
    training = facts["training"]
    if training:
        if training["engine"] == "slurm":
            head = f"Slurm, as of {ago(training['slurm_as_of'])}" if training["slurm_as_of"] else "Slurm"
        else:
            head = f"the local slot, one at a time ({training['gpus_here']} GPUs here); no Slurm found"
        click.echo(f"TRAINING  {head}")
        if training["slurm_error"]:
            click.echo(f"  Slurm does not answer: {training['slurm_error']}")
        counts = training["newest_200_by_state"]
        click.echo("  " + (", ".join(f"{n} {state}" for state, n in sorted(counts.items())) or "no runs yet"))
        show_table(
            ["  RUN", "STATE", "SINCE", "AS OF", "WHAT", "NODE", "STEP", "REASON"],
            [
                [f"  {row['run']}", row["state"], ago(row["since"]), ago(row["as_of"])]
                + [row["label"] or row["what"], row["node"], steps(row), row["reason"]]
                for row in training["live"]
            ],
        )
    if facts["queues"]:
        click.echo("\nQUEUES  now")
        show_table(
            ["  QUEUE", "SERVED BY", "WAITING", "RUNNING", "FAILED"],
            [
                [f"  {row['queue']}", row["served_by"], row["waiting"], row["running"], row["failed"]]
                for row in facts["queues"]
            ],
        )
    if facts["workers"] is not None:
        click.echo("\nWORKERS")
        show_table(
            ["  WORKER", "STATE", "JOB", "HEARTBEAT", "DONE", "FAILED"],
            [
                [f"  {row['name']}", row["state"], row["job"], _age(row["heartbeat_age"])]
                + [row["finished"], row["failed"]]
                for row in facts["workers"]
            ],
            empty="  none: start them with `hpcpools up`",
        )
    if facts["schedule"]:
        holder = facts["schedule"][0]["holder"]
        click.echo(f"\nSCHEDULE  {f'scheduler {holder}' if holder else 'no scheduler is live'}")
        show_table(
            ["  NAME", "EVERY", "LAST FIRED", "NEXT DUE", "MISSED"],
            [
                [
                    f"  {row['name']}",
                    row["timing"],
                    ago(row["last_fired"]),
                    _due(row["next_due"]),
                    row["missed"],
                ]
                for row in facts["schedule"]
            ],
        )
    if facts["services"]:
        click.echo("\nSERVICES")
        show_table(
            ["  SERVICE", "STATE", "SINCE", "RESTARTS"],
            [
                [f"  {row['name']}", row["state"], ago(row["since"]), row["restarts"]]
                for row in facts["services"]
            ],
        )


def _age(seconds: float | None) -> str:
    from hpcpools import durations

    return "-" if seconds is None else f"{durations.age(seconds)} ago"


def _due(at: float | None) -> str:
    from hpcpools import durations

    if at is None:
        return "-"
    left = at - time.time()
    return f"in {durations.age(left)}" if left >= 0 else f"{durations.age(-left)} late"
