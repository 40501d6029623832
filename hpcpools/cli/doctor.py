"""`hpcpools doctor`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpcpools.cli.output import json_option, load_config, note, show_json

if TYPE_CHECKING:
    from hpcpools.doctor.finding import Finding

CODES = {"ok": 0, "warn": 8, "fail": 9}
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command(epilog="Exit code: 0 all well, 8 warnings, 9 failures.")
@click.option("--probe", is_flag=True, help="Also run a small job on a compute node.")
@click.option("--patience", default="2m", show_default=True, metavar="TIME", help="How long to wait for it.")
@click.option(
    "--bundle",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also write a support archive (tar.gz), without secrets.",
)
@json_option
def doctor(probe: bool, patience: str, bundle: Path | None, as_json: bool) -> None:
    """Check everything that must hold for both pools to work; each finding comes with its fix."""
    from hpcpools import doctor as examination
    from hpcpools import durations

    config = load_config()
    found: list[Finding] = []
    for finding in examination.examine(config, probe=durations.seconds(patience) if probe else None):
        found.append(finding)
        if not as_json:
            _show(finding)
    worst = examination.worst(found)
    if bundle is not None:
        from hpcpools.doctor import bundle as archive

        names = archive.write(config, found, bundle)
        note(f"wrote {bundle} ({', '.join(names)}); look into it before you send it")
    if as_json:
        show_json({"worst": worst, "findings": [asdict(finding) for finding in found]})
    click.get_current_context().exit(CODES[worst])


def _show(finding: Finding) -> None:
    from hpcpools.textsafe import one_line

    level = click.style(f"{finding.level:5}", fg=COLOURS[finding.level])
    click.echo(f"{level} {finding.check}: {one_line(finding.text, 1000)}")
    if finding.fix:
        click.echo(f"      → {one_line(finding.fix, 1000)}")
