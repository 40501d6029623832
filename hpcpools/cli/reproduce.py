"""`hpcpools reproduce`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hpcpools.cli import complete
from hpcpools.cli.output import dry_run_option, load_config, note, say, show_json

if TYPE_CHECKING:
    from hpcpools.runs.directory import RunDirectory
    from hpcpools.runs.request import Request


@click.command()
@click.argument("run", shell_complete=complete.runs)
@click.option(
    "--on",
    type=click.Choice(["auto", "slurm", "local"]),
    default="auto",
    show_default=True,
    help="Which engine runs it; auto: the one the run had.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@dry_run_option
def reproduce(run: str, on: Any, as_json: bool, dry_run: bool) -> None:
    """Submit a run once more: same code, arguments and resources, as a new run.

    Prints what differs from then: Python, packages, host. The new run starts from the beginning, with no
    checkpoint of the old one.
    """
    from hpcpools.training import inflight, submit
    from hpcpools.training.handle import open_handle
    from hpcpools.training.reproduce import request_again

    config = load_config()
    old = open_handle(config, run).directory
    request, differences = request_again(config, old, on)
    for line in differences:
        note(f"differs: {line}")
    if not dry_run:
        if request.engine == "slurm":
            inflight.check(config)
        new = submit.submit(config, request, note)
        if request.engine == "local":
            from hpcpools.services import autostart

            autostart.for_training(config, note)
    if as_json:
        shown = {"run": None if dry_run else new.token, "reproduces": old.token, "differences": differences}
        show_json(shown)
    elif dry_run:
        say(f"would submit {request.what} again, from {old.token}")
    else:
        click.echo(new.token)


def code_line(run: RunDirectory, request: Request) -> str:
    """For ``show``: the commit, whether it was changed, the size of the snapshot."""
    from hpcpools.training import environment

    facts = request.code
    if facts is None:
        known = (environment.read(run) or {}).get("git") or {}
        where = str(known.get("commit", ""))[:12] + ("+changes" if known.get("dirty") else "")
        return "live files, no snapshot" + (f"; at submission commit {where}" if where else "")
    commit = f"commit {facts.commit[:12]}" if facts.commit else "no commit"
    changes = "+changes" if facts.commit and facts.dirty else ""
    branch = f" ({facts.branch})" if facts.branch else ""
    return f"{commit}{changes}{branch}, snapshot of {facts.files} files, {facts.size / 2**20:.2f} MiB"


def code_facts(run: RunDirectory, request: Request) -> dict[str, Any] | None:
    """The same for ``show --json``, with the snapshot's path; None if the live files run."""
    import msgspec

    from hpcpools.runs import code

    if request.code is None:
        return None
    facts: dict[str, Any] = msgspec.to_builtins(request.code)
    return {**facts, "path": str(code.folder(run.root, request.code.digest))}
