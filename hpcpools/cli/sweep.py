"""`hpcpools sweep`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpcpools.cli import complete
from hpcpools.cli.output import dry_run_option, json_option, load_config, note, show_json
from hpcpools.cli.train import COMMAND, TrainCommand, train, under_template
from hpcpools.training.plan import Options

if TYPE_CHECKING:
    from hpcpools.config import Config

SHOWN = 20  # points that a dry run lists


class SweepCommand(TrainCommand):
    """Takes those of train's options too, as declared there, that say how each element is run."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        known = {"time", "on", "snapshot", "template", *(item.name for item in dataclasses.fields(Options))}
        shared = [item for item in train.params if isinstance(item, click.Option) and item.name in known]
        kwargs["params"] = [*kwargs.get("params", ()), *shared]
        super().__init__(*args, **kwargs)


@click.command(
    cls=SweepCommand,
    epilog="""\b
Examples:
  hpcpools sweep tasks:train_model lr=1e-4,1e-3,1e-2 seed=0..4 --max-parallel 4
  hpcpools sweep --file sweep.toml epochs=3 --dry-run
  hpcpools sweep lr=1e-4,1e-3 seed=0..4 -- python train.py --lr {lr} --seed {seed}""",
)
@click.argument("target", required=False, shell_complete=complete.command)
@click.argument(
    "arguments",
    nargs=-1,
    type=click.UNPROCESSED,
    metavar="[NAME=VALUE[,VALUE]...|FIRST..LAST]... [-- COMMAND...]",
    shell_complete=complete.command,
)
@click.option(
    "--max-parallel", type=click.IntRange(1), default=None, help="At most so many elements run at once."
)
@click.option(
    "--file",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML with target, [fixed], [grid], [random]; NAME=VALUE overrules it.",
)
@json_option
@dry_run_option
@click.pass_context
def sweep(
    ctx: click.Context,
    /,
    target: str | None,
    arguments: tuple[str, ...],
    max_parallel: int | None,
    file: Path | None,
    as_json: bool,
    dry_run: bool,
    time: str | None,
    on: Any,
    snapshot: bool | None,
    template: str | None,
    **given: Any,
) -> None:
    """Submit TARGET, or a COMMAND after --, once per point of a grid: one job array, each element a full run.

    NAME=a,b,c and NAME=0..4 span the grid; a single value is the same for all. In a command {NAME} stands
    for the value; no shell reads it. Prints the sweep's id.
    """
    from hpcpools import catalog, durations
    from hpcpools.training import engine, grid
    from hpcpools.training import sweep as sweeping

    if target is not None and "=" in target:  # the file names the target, or there is a command
        arguments, target = (target, *arguments), None
    config = load_config()
    where = engine.choose(config, on)
    minutes = None if time is None else durations.minutes(time)
    options = Options(minutes=minutes, **{**given, "launcher": given["launcher"] or ""})
    if template:
        options = under_template(config, template, options)
    text = _text(file) if file else ""
    command = ctx.meta.get(COMMAND, ())
    definition = grid.define(arguments, target or "", text, max_parallel or 0, command)
    planned = sweeping.plan_sweep(
        config, catalog.load(config), definition, options, where, snapshot=snapshot, note=note
    )
    if dry_run:
        _show_plan(config, planned, as_json)
        return
    place = sweeping.submit_sweep(config, planned, note)
    if where == "local":
        from hpcpools.services import autostart

        autostart.for_training(config, note)
    if as_json:
        jobs = [place.job_id(number) for number in place.numbers()]
        show_json({"sweep": place.id, "runs": place.read().tokens, "jobs": jobs})
    else:
        click.echo(place.id)
        note(f"{len(planned.requests)} runs; follow them: hpcpools sweeps {place.id}")


def _text(file: Path) -> str:
    from hpcpools.errors import UsageError

    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}", hint="a TOML file in UTF-8") from None


def _show_plan(config: Config, planned: Any, as_json: bool) -> None:
    from hpcpools.training import arrays
    from hpcpools.training import sweep as sweeping

    points = [request.arguments for request in planned.requests]
    local = planned.requests[0].engine == "local"
    layout = [] if local else arrays.layout(config, len(points), planned.definition.max_parallel)
    script = "" if local else sweeping.script(config, planned, *layout[0])
    if as_json:
        sizes = [{"elements": size, "at_once": parallel} for size, parallel in layout]
        facts = {"runs": len(points), "arrays": sizes, "points": points, "script": script}
        show_json({**facts, "commands": [request.command for request in planned.requests]})
        return
    click.echo(script or "# the local slot would run these, one at a time\n", nl=False)
    for number, request in enumerate(planned.requests[:SHOWN]):
        values = " ".join(f"{name}={value!r}" for name, value in request.arguments.items())
        note(f"{number:>4}  " + (request.what if request.command else values))
    if len(points) > SHOWN:
        note(f"      and {len(points) - SHOWN} more")
    for size, parallel in layout:
        note(f"one array of {size} elements, {parallel} at once")
