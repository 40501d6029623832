"""Completion in the shell: the script that `hpcpools completion` prints or installs, and what is offered.

Offers come from the configuration and the names in a few folders, bounded; neither Slurm nor
Redis is asked. A completer says nothing rather than an error: the line is not finished yet.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpcpools.cli.output import dry_run_option, note

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from hpcpools.config import Config

SEEN = 20_000  # names read of one folder: a listing must not hold up a key press
SHOWN = 50
_ID = re.compile(r"h[pqs]-[0-9a-hjkmnp-tv-z]{26}")
_SCHEDULE = re.compile(r"([A-Za-z0-9_-]+)\.json")

Completer = Callable[[click.Context, click.Parameter, str], "list[str]"]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.option("--install", is_flag=True, help="Write it where SHELL looks for completions of yours.")
@dry_run_option
def completion(shell: str, install: bool, dry_run: bool) -> None:
    """Print the completion script of SHELL, or install it for you."""
    from click.shell_completion import get_completion_class

    from hpcpools import atomic
    from hpcpools.cli import group

    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101  (click's own three)
    script = kind(group, {}, "hpcpools", "_HPCPOOLS_COMPLETE").source()
    if not install:
        click.echo(script)
        return
    file, hint = _place(shell)
    if not dry_run:
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(file, f"{script}\n".encode(), mode=0o644)
    click.echo(f"{'would write' if dry_run else 'wrote'} {file}")
    note(hint)


def _place(shell: str) -> tuple[Path, str]:
    """Where the script belongs, and what else it takes."""
    from hpcpools import config

    given = config.environment()
    data = Path(given.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    if shell == "fish":
        settings = Path(given.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        return settings / "fish" / "completions" / "hpcpools.fish", "new shells complete hpcpools"
    if shell == "zsh":  # no folder of the user is on fpath by itself
        folder = data / "zsh" / "site-functions"
        return folder / "_hpcpools", f"in ~/.zshrc, before compinit: fpath=({folder} $fpath)"
    folder = Path(given.get("BASH_COMPLETION_USER_DIR") or data / "bash-completion") / "completions"
    file = folder / "hpcpools"
    return file, f"new shells complete hpcpools; without the package bash-completion: source {file}"


def _completer(names: Callable[[Config], Iterable[str]]) -> Completer:
    """click's kind of completer; the words that the line has already are not offered again."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        from hpcpools import config
        from hpcpools.errors import HpcpoolsError

        given = context.find_root().params.get("config_file")
        taken = context.params.get(parameter.name or "") or ()
        try:
            found = names(config.load(Path(given).expanduser().absolute() if given else None))
            fitting = (name for name in found if name.startswith(incomplete) and name not in taken)
            return list(itertools.islice(fitting, SHOWN))
        except (HpcpoolsError, OSError):
            return []

    return complete


def _listed(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in itertools.islice(entries, SEEN)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _ids(folder: Path, suffix: str = "") -> list[str]:
    """Names made by us, newest first: they sort by time."""
    plain = (name.removesuffix(suffix) for name in _listed(folder) if name.endswith(suffix))
    return sorted(filter(_ID.fullmatch, plain), reverse=True)


def _runs(config: Config) -> list[str]:
    return _ids(config.root)


def _sweeps(config: Config) -> list[str]:
    return _ids(config.root / ".sweeps", ".json")


def _pipelines(config: Config) -> list[str]:
    return _ids(config.root / ".pipelines")


def _works(config: Config) -> list[str]:
    found = [*_runs(config), *_sweeps(config), *_pipelines(config)]
    return sorted(found, key=lambda name: name[3:], reverse=True)


def _live(config: Config) -> list[str]:
    """Runs that are not final, and all sweeps and pipelines."""
    return [*_ids(config.root / ".live"), *_sweeps(config), *_pipelines(config)]


def _services(config: Config) -> list[str]:
    from hpcpools.services import table

    return [service.name for service in table.services(config)]


def _logs(config: Config) -> list[str]:
    return [*_services(config), "all", *_runs(config)]


def _schedules(config: Config) -> list[str]:
    added = filter(None, map(_SCHEDULE.fullmatch, _listed(config.root / ".schedule")))
    return sorted({*config.schedules, *(match[1] for match in added)})


def _templates(config: Config) -> list[str]:
    from hpcpools import templates

    return templates.names(config)


def _nodes(config: Config) -> list[str]:
    return sorted(name for name in _listed(config.root / ".nodes") if re.fullmatch(r"[A-Za-z0-9._-]+", name))


runs = _completer(_runs)
sweeps = _completer(_sweeps)
pipelines = _completer(_pipelines)
works = _completer(_works)
live = _completer(_live)
services = _completer(_services)
logs = _completer(_logs)
schedules = _completer(_schedules)
templates = _completer(_templates)
nodes = _completer(_nodes)


def command(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Words of the user's command after ``--``: file names, by the shell itself."""
    from click.shell_completion import CompletionItem

    from hpcpools.cli.train import COMMAND

    return [CompletionItem(incomplete, type="file")] if COMMAND in context.meta else []


def topics(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """What `hpcpools help` knows: its pages, and every command."""
    from hpcpools.cli import COMMANDS
    from hpcpools.cli.help import pages

    return [name for name in sorted({*pages(), *COMMANDS}) if name.startswith(incomplete)]
