"""`hpcpools template list|show|render|submit`: sbatch scripts to read, to fill in, to submit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hpcpools.cli import complete
from hpcpools.cli.output import dry_run_option, json_option, load_config, note, show_json, show_table

if TYPE_CHECKING:
    from hpcpools.templates import Template

values_argument = click.argument("values", nargs=-1, type=click.UNPROCESSED, metavar="[FIELD=VALUE]...")


@click.group()
def template() -> None:
    """Plain sbatch scripts: list, show, render, submit. See docs/templates.md."""


@template.command(name="list")
@json_option
def list_(as_json: bool) -> None:
    """List the templates, each with the fields that want to be looked at."""
    from hpcpools import templates

    config = load_config()
    found = [templates.find(config, name) for name in templates.names(config)]
    if as_json:
        show_json([_facts(each) for each in found])
        return
    rows = [[each.name, " ".join(each.script.edits), each.script.about] for each in found]
    show_table(["NAME", "FIELDS", "WHAT"], rows)


@template.command()
@click.argument("name", shell_complete=complete.templates)
@json_option
def show(name: str, as_json: bool) -> None:
    """Print a template as it lies there."""
    from hpcpools import templates

    found = templates.find(load_config(), name)
    if as_json:
        show_json({**_facts(found), "text": "\n".join(found.script.lines)})
        return
    click.echo("\n".join(found.script.lines), nl=False)
    note(str(found.path))


@template.command(epilog='Example: hpcpools template render training command="python train.py" time=2:00:00')
@click.argument("name", shell_complete=complete.templates)
@values_argument
def render(name: str, values: tuple[str, ...]) -> None:
    """Print a template with values in its fields: options of its header, and variables marked EDIT."""
    from hpcpools import templates

    found = templates.find(load_config(), name)
    click.echo(found.script.render(_given(values)), nl=False)


@template.command(
    epilog='Example: hpcpools template submit preprocessing partition=cpu command="python clean.py"'
)
@click.argument("name", shell_complete=complete.templates)
@values_argument
@json_option
@dry_run_option
def submit(name: str, values: tuple[str, ...], as_json: bool, dry_run: bool) -> None:
    """Submit a template from the current folder; prints the job's id."""
    from hpcpools import templates
    from hpcpools.templates import submit as submission

    config = load_config()
    found = templates.find(config, name)
    if dry_run:
        click.echo(found.script.render(_given(values)), nl=False)
        return
    job_id = submission.send(config, found, _given(values), note)
    if as_json:
        show_json({"template": found.name, "job_id": job_id})
    else:
        click.echo(job_id)


def _facts(found: Template) -> dict[str, object]:
    script = found.script
    return {
        "name": found.name,
        "path": str(found.path),
        "about": script.about,
        "edit": script.edits,
        "fields": {**script.options, **script.variables},
    }


def _given(items: tuple[str, ...]) -> dict[str, str]:
    """``FIELD=VALUE`` words, each field once; the values stay text. Raises UsageError."""
    from hpcpools.errors import UsageError
    from hpcpools.textsafe import one_line

    found: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or name in found:
            raise UsageError(
                f"{one_line(item, 80)!r} is not FIELD=VALUE, each field once", hint="time=2:00:00"
            )
        found[name] = value
    return found
