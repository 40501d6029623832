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

from hpcpools.cli.output import ago, fresh_option, json_option, load_config, note, say, show_json, show_table
from hpcpools.cli.runs import steps, watched

if TYPE_CHECKING:
    from hpcpools.config import Config
    from hpcpools.runs.request import Engine
    from hpcpools.training.watch import Watch


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
    look = _try(problems, partial(_look, fresh=fresh), config)
    facts = {
        "at": time.time(),
        "config": config.file,
        "training": _try(problems, partial(_training, *look), config) if look else None,
        "queues": _try(problems, partial(_queues, *look), config) if look else None,
        "lane": _try(problems, _lane, config) if config.has_lane else None,
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


def _look(config: Config, *, fresh: bool) -> tuple[Engine, Watch]:
    """Who trains here, and the live runs: asked and read once for the whole screen."""
    from hpcpools.training import engine

    where = engine.choose(config)
    return where, watched(config, fresh=fresh, slurm=where == "slurm")


def _training(where: Engine, seen: Watch, config: Config) -> dict[str, Any]:
    from hpcpools import gpu
    from hpcpools.maintenance.metrics import summary
    from hpcpools.runs import directory
    from hpcpools.runs.directory import RunDirectory
    from hpcpools.runs.view import read_view

    known = {view.token: view for view in (*seen.views, *seen.ended)}
    live = [summary(config, view) for view in seen.views]
    recent = Counter(
        (known.get(token) or read_view(RunDirectory(config.root, token))).state.value
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


def _queues(where: Engine, seen: Watch, config: Config) -> list[dict[str, object]]:
    from hpcpools.cli.short import queue_rows

    return queue_rows(config, where, seen.views)


def _lane(config: Config) -> list[dict[str, Any]]:
    from hpcpools.lane import views

    return [asdict(batch) for batch in views.open_batches(config)]


def _workers(config: Config) -> list[dict[str, Any]]:
    from hpcpools.short import views

    return [asdict(worker) for worker in views.workers(config)]


def _schedule(config: Config) -> list[dict[str, Any]]:
    from hpcpools.redisdb.resp import reader
    from hpcpools.short.timetable import schedule_view

    with reader(config) as connection:
        return [asdict(entry) for entry in schedule_view(config, connection)]


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
            say(f"  Slurm does not answer: {training['slurm_error']}")
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
    if facts["lane"]:
        click.echo("\nLANE  short tasks in Slurm")
        show_table(
            ["  BATCH", "SLURM JOB", "STATE", "NODE", "TASKS", "RUNNING", "ENDED", "REASON"],
            [
                [f"  {row['batch']}", row["job_id"], row["state"] or "SUBMITTED", row["nodes"], row["tasks"]]
                + [row["running"], row["ended"], row["reason"]]
                for row in facts["lane"]
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
                    _due(row["next_due"]) if row["state"] == "on" else row["state"],
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
