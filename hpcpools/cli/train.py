"""`hpcpools train`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hpcpools.cli import complete
from hpcpools.cli.output import dry_run_option, load_config, note, say, show_json

if TYPE_CHECKING:
    from hpcpools.config import Config

COMMAND = "hpcpools.command"  # key in click's context: the words after --


class TrainCommand(click.Command):
    """Everything after ``--`` is the user's command line, untouched by our option parser."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Split at the first ``--``."""
        if "--" in args:
            at = args.index("--")
            ctx.meta[COMMAND] = tuple(args[at + 1 :])
            args = args[:at]
        return super().parse_args(ctx, args)


@click.command(
    cls=TrainCommand,
    epilog="""\b
Examples:
  hpcpools train tasks:train_model lr=1e-3 --gpus 8
  hpcpools train tasks:train_model --nodes 4
  hpcpools train --gpus 4 --time 12:00:00 -- python train.py --lr 1e-3""",
)
@click.argument("target", required=False, shell_complete=complete.command)
@click.argument(
    "arguments",
    nargs=-1,
    type=click.UNPROCESSED,
    metavar="[NAME=VALUE]... [-- COMMAND...]",
    shell_complete=complete.command,
)
@click.option("--gpus", type=click.IntRange(0, 1024), help="GPUs of each node; all of them if left out.")
@click.option("--nodes", "-N", type=click.IntRange(1, 10_000), help="Nodes; see docs/training.md.")
@click.option("--time", metavar="TIME", help="Wall time: 12h, 90m, HH:MM:SS or D-HH:MM:SS.")
@click.option("--partition", "-p", default="", help="Slurm partition.")
@click.option("--account", "-A", default="", help="Slurm account.")
@click.option("--qos", default="", help="Slurm quality of service.")
@click.option("--constraint", "-C", default="", help="Node features.")
@click.option(
    "--cpus", type=click.IntRange(1, 4096), help="CPUs (local slot only; on Slurm all of the node)."
)
@click.option(
    "--launcher",
    type=click.Choice(["auto", "elastic", "single"]),
    default=None,
    help="elastic: one process per GPU through torch; single: one process.",
)
@click.option(
    "--restart",
    "restarts",
    multiple=True,
    metavar="KIND=N",
    help="Budget of restarts: preemption, time_limit, node_failure, user_error, …",
)
@click.option("--on-oom", default="", metavar="RULE", help="halve:ARGUMENT:MINIMUM after out of memory.")
@click.option("--label", default="", help="A name for people.")
@click.option("--template", "template", metavar="FILE", help="A site's sbatch script; see docs/templates.md.")
@click.option(
    "--on",
    type=click.Choice(["auto", "slurm", "local"]),
    default="auto",
    show_default=True,
    help="Which engine runs it.",
)
@click.option(
    "--snapshot/--no-snapshot",
    default=None,
    help="Run a copy of the code as it is now (see docs/reproduce.md); the config decides if left out.",
)
@click.option(
    "--check", is_flag=True, help="Check everything (also with sbatch --test-only); submit nothing."
)
@click.option("--wait", "wait_", is_flag=True, help="Wait for the end; exit 0 only if it completed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@dry_run_option
@click.pass_context
def train(
    ctx: click.Context,
    /,
    target: str | None,
    arguments: tuple[str, ...],
    on: Any,
    check: bool,
    wait_: bool,
    snapshot: bool | None,
    as_json: bool,
    dry_run: bool,
    time: str | None,
    template: str | None,
    **given: Any,
) -> None:
    """Submit a training: TARGET is package.module:function; or a COMMAND after --.

    Exclusive nodes, one attempt at a time. Prints the run's token at once; the training is then in
    Slurm's hands (or waits for the local slot).
    """
    from hpcpools import durations
    from hpcpools.training import engine, inflight, saving, submit
    from hpcpools.training import snapshot as code_snapshot
    from hpcpools.training.plan import Options

    config = load_config()
    where = engine.choose(config, on)
    minutes = None if time is None else durations.minutes(time)
    options = Options(minutes=minutes, **{**given, "launcher": given["launcher"] or ""})
    if template:
        options = under_template(config, template, options)
    request = _plan(config, target, arguments, ctx.meta.get(COMMAND), options, where)
    code = code_snapshot.survey(config, request, snapshot, note)
    request = code_snapshot.use(request, code)
    if dry_run:
        click.echo(submit.script(config, request) if where == "slurm" else _local_plan(request), nl=False)
        return
    if check:
        from hpcpools.training.check import check as run_checks

        for found in run_checks(config, request):
            say(f"{'!!' if found.short else 'ok'}  {found.text}")
        return
    if where == "local" and (given["gpus"] or 0) > request.resources.gpus:
        note(f"this machine has {request.resources.gpus} GPUs; {given['gpus']} were asked for")
    if where == "slurm":
        inflight.check(config)
    code_snapshot.store(config, code)
    run = submit.submit(config, request, note)
    if where == "local":
        from hpcpools.services import autostart

        autostart.for_training(config, note)
    if as_json:
        from hpcpools.maintenance.metrics import summary
        from hpcpools.runs.view import read_view

        show_json(summary(config, read_view(run)))
    else:
        click.echo(run.token)
        note(f"follow it: hpcpools logs {run.token} -f")
    for text in saving.warnings(config, request):
        note(f"warning: {text}")
    if wait_:
        from hpcpools.cli.act import wait_for

        wait_for(config, [run.token], None)


def under_template(config: Config, template: str, options: Any) -> Any:
    """``options``, and where they are silent what a site's script (or template's name) says.

    Tells what is left out. Raises UsageError for what contradicts exclusive nodes with one task each.
    """
    from pathlib import Path

    from hpcpools import templates
    from hpcpools.templates import foreign

    path = Path(template).expanduser()
    if not path.is_file() and template in templates.names(config):
        path = templates.find(config, template).path
    found = foreign.read(path.name, templates.read(path), options.nodes)
    for text in found.notes:
        note(text)
    return found.under(options)


def _plan(
    config: Config,
    target: str | None,
    arguments: tuple[str, ...],
    command: tuple[str, ...] | None,
    options: Any,
    where: Any,
) -> Any:
    from hpcpools import catalog, textsafe
    from hpcpools.errors import UsageError
    from hpcpools.training import plan

    if command and target is None:
        return plan.plan_command(config, command, options, where)
    if target is None or command is not None:
        raise UsageError(
            "what shall be trained?", hint="either package.module:function NAME=VALUE..., or -- COMMAND"
        )
    named = textsafe.key_values(arguments)
    textsafe.callable_name(target)
    return plan.plan_callable(config, catalog.load(config), target, named, options=options, engine=where)


def _local_plan(request: Any) -> str:
    import msgspec

    text = msgspec.json.format(msgspec.json.encode(request)).decode()
    return f"# the local slot would run this request\n{text}\n"
