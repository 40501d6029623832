"""`hpcpools deploy …`: files for what keeps the services up, and for what ships their logs."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click

from hpcpools.cli.output import dry_run_option, load_config, note

memory_option = click.option(
    "--memory", default="4G", show_default=True, help="From where on it is slowed down."
)


@click.group()
def deploy() -> None:
    """Keep the services up: files for systemd, cron, scrontab, supervisord, docker compose, log shippers."""


@deploy.command(epilog="Example: hpcpools deploy systemd && systemctl --user enable --now NAME")
@click.option("--system", is_flag=True, help="A unit for the whole machine, for an administrator.")
@click.option("--account", default="", help="With --system: the account that owns the pool.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write it there instead.")
@memory_option
@dry_run_option
def systemd(system: bool, account: str, output: Path | None, memory: str, dry_run: bool) -> None:
    """Write a systemd unit; without --system a user unit, for which nobody needs root."""
    from hpcpools import atomic, deploy

    if system != bool(account):
        raise click.UsageError("--system needs --account, and a user unit has none")
    config = load_config()
    text = deploy.render(
        config, "system.service" if system else "user.service", memory=memory, account=account
    )
    path = output or deploy.unit_file(config, system)
    if dry_run:
        click.echo(text, nl=False)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(path, text.encode(), mode=0o644)
    click.echo(str(path))
    how = "systemctl" if system else "systemctl --user"
    note(f"start it: {how} daemon-reload && {how} enable --now {path.stem}")
    if not system:
        note("without `loginctl enable-linger` it ends when you log out, and does not start at boot")


@deploy.command()
def cron() -> None:
    """Print a crontab line that starts the services after a reboot."""
    from hpcpools import deploy

    click.echo(deploy.render(load_config(), "crontab"), nl=False)


@deploy.command()
@click.option("--time", default="1-00:00:00", show_default=True, help="The longest one job runs.")
@click.option("--node", default="", help="The node that keeps Redis' data; where the pool lives otherwise.")
@memory_option
def scrontab(time: str, node: str, memory: str) -> None:
    """Print scrontab lines: the services as a recurring Slurm job on one node, for sites without cron."""
    from hpcpools import deploy

    config = load_config()
    node = deploy.home_node(config, node)
    click.echo(deploy.render(config, "scrontab", memory=memory, time=time, node=node), nl=False)


@deploy.command()
def supervisor() -> None:
    """Print a program section for supervisord."""
    from hpcpools import deploy

    click.echo(deploy.render(load_config(), "supervisord.conf"), nl=False)


@deploy.command(epilog="Example: hpcpools deploy compose && cd compose && docker compose up --detach --build")
@click.argument(
    "folder", metavar="[DIR]", default="compose", type=click.Path(path_type=Path, file_okay=False)
)
@click.option("--user", default="", metavar="UID:GID", help="For root: as whom the containers run.")
@dry_run_option
def compose(folder: Path, user: str, dry_run: bool) -> None:
    """Write docker compose files for this machine: all services, Prometheus, Grafana, Loki and Alloy.

    Settings are written anew each time; secrets, data and requirements.txt stay.
    """
    from hpcpools.deploy import compose as stack

    config, folder = load_config(), folder.absolute()
    owner = stack.owner(user)
    if dry_run:
        for name in sorted(stack.files(config, owner)):
            note(f"would write {folder / name}")
        click.echo(stack.files(config, owner)["docker-compose.yml"], nl=False)
        return
    for path in stack.write(config, folder, owner):
        click.echo(str(path))
    note(f"name what your tasks import in {folder / 'requirements.txt'}")
    note(f"start it: cd {folder} && docker compose up --detach --build")
    note(f"Grafana's password for admin is in {folder / stack.PASSWORD}")


@deploy.command(epilog="Example: hpcpools deploy logs alloy --loki http://127.0.0.1:3100 > hpcpools.alloy")
@click.argument("agent", type=click.Choice(["alloy", "vector"]))
@click.option("--loki", default="http://127.0.0.1:3100", show_default=True, help="Where Loki listens.")
def logs(agent: str, loki: str) -> None:
    """Print a configuration for Grafana Alloy or Vector: the services' logs to Loki."""
    from hpcpools import deploy

    folder = str(load_config().runtime_dir / "logs")
    click.echo(deploy.shipper(cast("deploy.Agent", agent), folder, loki), nl=False)
