"""`hpcpools nodes`: the nodes whose GPU checks failed, who avoids them, and the way back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from hpcpools.cli import complete
from hpcpools.cli.output import ago, dry_run_option, json_option, load_config, note, show_json, show_table

if TYPE_CHECKING:
    from hpcpools.runs.nodes import Node


@click.command()
@click.option(
    "--report",
    metavar="NODE",
    shell_complete=complete.nodes,
    help="Print a text about NODE, ready for the site's admins.",
)
@click.option("--release", metavar="NODE", shell_complete=complete.nodes, help="Trust NODE again.")
@dry_run_option
@json_option
def nodes(report: str | None, release: str | None, dry_run: bool, as_json: bool) -> None:
    """List nodes whose GPU checks failed. Failures of two runs within a day: all runs avoid the node.

    All avoid at most a quarter of a partition; a run also avoids every node that it failed on.
    """
    from hpcpools.errors import NotFoundError, UsageError
    from hpcpools.runs import nodes as record

    config = load_config()
    now = time.time()
    if report and release:
        raise UsageError("--report and --release are two commands", hint="give one of them")
    known = {node.name: node for node in record.read_nodes(config.root, now)}
    name = report or release
    if name is not None and record.check_node(name) not in known:
        raise NotFoundError(f"nothing is recorded of node {name}", hint="`hpcpools nodes` lists them")
    if report:
        text = record.report(known[report], {e.at: _clock(e.at) for e in known[report].events})
        if as_json:
            show_json({**_row(known[report]), "report": text})
        else:
            from hpcpools.textsafe import printable

            click.echo(printable(text))
    elif release:
        if not dry_run:
            record.release(config.root, release, now)
        if as_json:
            show_json({"node": release, "released": not dry_run, "events": len(known[release].events)})
        else:
            click.echo(f"{'would release' if dry_run else 'released'} {release}")
    elif as_json:
        show_json({"nodes": [_row(node) for node in known.values()]})
    else:
        _show([_row(node) for node in known.values()])


def _row(node: Node) -> dict[str, Any]:
    events, failures = node.events, node.failures
    last = (failures or events)[-1]
    return {
        "node": node.name,
        "failures": len(failures),
        "warnings": len(events) - len(failures),
        "runs": list(node.runs),
        "last_at": last.at,
        "last_check": last.check,
        "last_value": last.value,
        "gpu": last.gpu,
        "uuid": last.uuid,
        "quarantined_until": node.quarantined_until,
    }


def _show(rows: list[dict[str, Any]]) -> None:
    show_table(
        ["NODE", "FAILURES", "RUNS", "LAST", "CHECK", "VALUE", "AVOIDED BY ALL UNTIL"],
        [
            [row["node"], row["failures"], len(row["runs"]), ago(row["last_at"]), row["last_check"]]
            + [row["last_value"], _clock(row["quarantined_until"]) if row["quarantined_until"] else "-"]
            for row in rows
        ],
        empty="no node has failed a check",
    )
    if rows:
        note("`hpcpools nodes --report NODE` prints a text for the admins, `--release NODE` trusts it again")


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(at))
