"""`hpcpools init` and `tasks`."""

from __future__ import annotations

from pathlib import Path

import click

from hpcpools.cli.output import json_option, load_config, note, show_json, show_table


@click.command()
@click.option("--module", "modules", multiple=True, help="A module that declares tasks; may be repeated.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
def init(modules: tuple[str, ...], force: bool) -> None:
    """Write a commented hpcpools.toml here, filled from the site when Slurm is there."""
    from hpcpools import atomic, config
    from hpcpools.cli.init_template import render
    from hpcpools.errors import UsageError
    from hpcpools.slurm.site import read_site
    from hpcpools.training import engine

    path = Path.cwd() / config.FILE_NAME
    if path.exists() and not force:
        raise UsageError(f"{path} is there already", hint="edit it, or replace it with --force")
    site = None
    runner = engine.runner(config.Config(file=str(path)))
    if runner.available():
        note("asking Slurm for its partitions")
        site = read_site(runner)
    text = render(site, modules)
    config.parse_text(text, path)
    atomic.write_bytes(path, text.encode(), mode=0o644)
    click.echo(f"wrote {path}")
    note("next: " + ("" if modules else "name your modules in [project] modules, then ") + "`hpcpools tasks`")


@click.command()
@json_option
def tasks(as_json: bool) -> None:
    """List what the configured modules declare and where it goes."""
    from hpcpools import catalog
    from hpcpools.declare import TrainingDeclaration

    config = load_config()
    rows = []
    for entry in catalog.load(config):
        declared = entry.declaration
        if isinstance(declared, TrainingDeclaration):
            needs = f"gpus={'all' if declared.gpus is None else declared.gpus}"
            needs += f" nodes={declared.nodes}" if (declared.nodes or 1) > 1 else ""
        else:
            needs = f"timeout={int(declared.timeout or config.short.timeout)}s"
            retries = config.short.retries if declared.retries is None else declared.retries
            needs += f" retries={retries}" if retries else ""
            needs += f" {declared.needs}" if declared.needs else ""
        pool = "training" if entry.is_training else "short"
        rows.append({"task": entry.name, "pool": pool, "queue": entry.queue, "needs": needs})
        rows[-1]["routed_by"] = entry.routed_by
    if as_json:
        show_json(rows)
        return
    show_table(["TASK", "POOL", "QUEUE", "NEEDS", "ROUTED BY"], [list(row.values()) for row in rows])
