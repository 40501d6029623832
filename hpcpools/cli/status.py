"""`hpcpools status`: both pools on one screen; every fact says how old it is."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from hpcpools.cli.output import (
    ago,
    due,
    fresh_option,
    json_option,
    load_config,
    note,
    say,
    show_json,
    show_table,
)
from hpcpools.cli.runs import steps

if TYPE_CHECKING:
    from hpcpools.config import Config
    from hpcpools.overview import Look


@click.command()
@click.option("--watch", "every", metavar="SECONDS", type=click.FloatRange(0.5), help="Redraw until Ctrl-C.")
@fresh_option
@json_option
def status(every: float | None, fresh: bool, as_json: bool) -> None:
    """Both pools on one screen, with the age of every fact."""
    from hpcpools.overview import Look

    config = load_config()
    look = Look(config)
    if every is None:
        _once(config, look, fresh, as_json)
        return
    with contextlib.suppress(KeyboardInterrupt):  # the way to end it
        while True:
            if not as_json:
                click.clear()  # on a terminal only
                click.echo(f"{time.strftime('%H:%M:%S')}, every {every:g} s, Ctrl-C ends it\n")
            _once(config, look, fresh, as_json)
            sys.stdout.flush()
            time.sleep(every)


def _once(config: Config, look: Look, fresh: bool, as_json: bool) -> None:
    from hpcpools import overview

    now = look(fresh=fresh)
    where, seen, short = now.engine, now.seen, now.queues
    training = queues = None
    if where is not None and seen is not None:
        training = look.part(lambda: overview.training(config, where, seen))
        queues = None if short is None else overview.queue_rows(config, where, seen.views, short)
    facts = {
        "at": now.at,
        "config": config.file,
        "training": training,
        "queues": queues,
        "lane": now.lane,
        "workers": now.workers,
        "schedule": now.schedule,
        "services": now.services,
        "problems": now.problems,
    }
    if as_json:
        show_json(facts)
        return
    _show(facts)
    for problem in now.problems:
        note(problem)


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
                [f"  {row.batch}", row.job_id, row.state or "SUBMITTED", row.nodes, row.tasks]
                + [row.running, row.ended, row.reason]
                for row in facts["lane"]
            ],
        )
    if facts["workers"] is not None:
        click.echo("\nWORKERS")
        show_table(
            ["  WORKER", "STATE", "JOB", "HEARTBEAT", "DONE", "FAILED"],
            [
                [f"  {row.name}", row.state, row.job, _age(row.heartbeat_age)] + [row.finished, row.failed]
                for row in facts["workers"]
            ],
            empty="  none: start them with `hpcpools up`",
        )
    if facts["schedule"]:
        holder = facts["schedule"][0].holder
        click.echo(f"\nSCHEDULE  {f'scheduler {holder}' if holder else 'no scheduler is live'}")
        show_table(
            ["  NAME", "EVERY", "LAST FIRED", "NEXT DUE", "MISSED"],
            [
                [
                    f"  {row.name}",
                    row.timing,
                    ago(row.last_fired),
                    due(row.next_due) if row.state == "on" else row.state,
                    row.missed,
                ]
                for row in facts["schedule"]
            ],
        )
    if facts["services"]:
        click.echo("\nSERVICES")
        show_table(
            ["  SERVICE", "STATE", "SINCE", "RESTARTS"],
            [[f"  {row.name}", row.state, ago(row.since), row.restarts] for row in facts["services"]],
        )


def _age(seconds: float | None) -> str:
    from hpcpools import durations

    return "-" if seconds is None else f"{durations.age(seconds)} ago"
