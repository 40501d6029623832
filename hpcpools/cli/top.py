"""`hpcpools top`."""

from __future__ import annotations

import sys

import click

from hpcpools.cli.output import load_config


@click.command()
def top() -> None:
    """Both pools live in the terminal: runs, short jobs, queues, nodes, the log of what is selected.

    The key ? shows the others; cancel and retry ask before they act.
    """
    from hpcpools.config import forget
    from hpcpools.errors import HpcpoolsError, UsageError

    config = load_config()
    if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        raise UsageError("top needs a terminal", hint="`hpcpools status` prints once, `--json` for programs")
    try:
        from hpcpools.top.app import Top
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "textual":
            raise
        raise HpcpoolsError("top needs textual", hint="`pip install 'hpcpools[top]'`") from None
    for name in ("COLUMNS", "LINES"):  # some shells export them; textual believes them, and sees no resize
        forget(name)
    Top(config).run()
