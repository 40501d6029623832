"""`hpcpools explain`: why a run or a short job is in its state, and what to do next."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from hpcpools.cli import complete
from hpcpools.cli.output import ago, json_option, load_config, show_facts, show_json
from hpcpools.runs.token import names_pipeline
from hpcpools.textsafe import printable

if TYPE_CHECKING:
    from hpcpools.config import Config
    from hpcpools.explanation import Explanation


@click.command()
@click.argument("name", metavar="RUN|JOB|PIPELINE", shell_complete=complete.works)
@json_option
@click.pass_context
def explain(ctx: click.Context, name: str, as_json: bool) -> None:
    """Why a run, short job or pipeline waits, runs or ended, what shows it, and what to do next."""
    if names_pipeline(name):
        from hpcpools.cli import pipeline

        ctx.invoke(pipeline.explain, name=name, as_json=as_json)
        return
    if name.startswith("hs-"):
        from hpcpools.errors import UsageError

        raise UsageError(f"{name} is a sweep", hint=f"`hpcpools sweeps {name}` lists its runs; explain one")
    config = load_config()
    found = _run(config, name) if name.startswith("hp-") else _job(config, name)
    if as_json:
        show_json(asdict(found))
        return
    click.echo(printable(f"{found.name}  {found.state}, as of {ago(found.as_of)}"))
    show_facts(
        [
            ("why", found.cause + (f" ({found.code})" if found.code else "")),
            ("do", found.action),
            ("starts", _forecast(found.starts)),
            *(("evidence" if number == 0 else "", text) for number, text in enumerate(found.evidence)),
        ]
    )


def _run(config: Config, name: str) -> Explanation:
    from hpcpools.services import control
    from hpcpools.training import findings
    from hpcpools.training.explain import explain as decide
    from hpcpools.training.handle import open_handle

    handle = open_handle(config, name)
    local = handle.view().request.engine == "local"
    alive = not local or any(row.name == "slot" and row.state == "running" for row in control.ps(config))
    return decide(findings.gather(config, handle.directory, slot_alive=alive))


def _job(config: Config, name: str) -> Explanation:
    from hpcpools.lane import explain as lane
    from hpcpools.short import explain as short

    facts = short.gather(config, name)
    return lane.explain(config, facts) or short.explain(facts)


def _forecast(at: float | None) -> str:
    """Slurm's forecast in local time; it changes with every job that ends early or comes in between."""
    import time

    from hpcpools import durations

    if at is None:
        return ""
    left = at - time.time()
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
    return f"in {durations.age(left)} ({when}) by Slurm's present forecast" if left > 0 else "now due"
