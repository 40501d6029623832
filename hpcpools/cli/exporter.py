"""`hpcpools exporter`."""

from __future__ import annotations

from pathlib import Path

import click

from hpcpools.cli.output import load_config

PRINTED = ("metrics", "alerts", "grafana")


@click.command(
    epilog="Without options it serves on exporter.sock in the runtime directory, mode 0600: "
    "`curl --unix-socket …/exporter.sock http://hp/metrics`."
)
@click.option(
    "--listen",
    metavar="127.0.0.1:PORT",
    default="",
    help="Serve on a loopback port instead; clients need the token in exporter.token (mode 0600).",
)
@click.option(
    "--textfile",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.prom",
    help="Write a file for node_exporter's textfile collector instead; no port, no socket.",
)
@click.option("--every", metavar="TIME", help="With --textfile: again and again, such as 30s.")
@click.option(
    "--print",
    "printed",
    type=click.Choice(PRINTED),
    help="Print the metrics as they are now, the alert rules, or the Grafana dashboard, and end.",
)
def exporter(listen: str, textfile: Path | None, every: str | None, printed: str | None) -> None:
    """Metrics for Prometheus: over a private unix socket, a loopback port with a token, or in a file."""
    from hpcpools import durations, monitoring
    from hpcpools.errors import UsageError

    if sum((bool(listen), textfile is not None, printed is not None)) > 1:
        raise UsageError("--listen, --textfile and --print exclude each other", hint="choose one")
    if every is not None and textfile is None:
        raise UsageError("--every belongs to --textfile", hint="a server reads the facts at each scrape")
    if printed in monitoring.SHIPPED:
        click.echo(monitoring.shipped(printed), nl=False)
        return
    from hpcpools.monitoring import service

    config = load_config()
    if printed:
        click.echo(service.collector(config).text(), nl=False)
    elif textfile is None:
        from hpcpools import eventlog

        eventlog.to_stderr()
        click.get_current_context().exit(service.serve(config, listen))
    elif every is None:
        service.write(service.collector(config), textfile.absolute())
    else:
        from hpcpools import eventlog

        eventlog.to_stderr()
        click.get_current_context().exit(service.keep(config, textfile.absolute(), durations.seconds(every)))
