"""`hpcpools dashboard`."""

from __future__ import annotations

import click

from hpcpools.cli.output import load_config, note


@click.command(
    epilog="Without --listen it serves on dashboard.sock in the runtime directory, mode 0600; the "
    "ssh command that brings it to your laptop is printed."
)
@click.option("--listen", metavar="127.0.0.1:PORT", default="", help="Serve on a loopback port instead.")
@click.option("--allow-changes", is_flag=True, help="Let it cancel and requeue; otherwise it only shows.")
@click.option("--print-token", is_flag=True, help="Print the token that the login page asks for, and end.")
def dashboard(listen: str, allow_changes: bool, print_token: bool) -> None:
    """Web pages of both pools: runs, sweeps, pipelines, schedule, nodes, queues, workers, jobs."""
    from hpcpools.dashboard import service

    config = load_config()
    if print_token:
        click.echo(service.token(config))
        return
    from hpcpools import eventlog
    from hpcpools.config import activate

    activate(config)
    eventlog.to_stderr()
    with service.listening(config, listen) as place:
        note(f"on your laptop:  {place.tunnel}")
        note(f"then open        {place.url}")
        note("and log in with  the output of `hpcpools dashboard --print-token`")
        service.serve(config, place, allow_changes=allow_changes)
