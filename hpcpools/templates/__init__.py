"""sbatch templates: plain scripts that work by hand, and through `hpcpools template` and `train --template`.

Owns where they are found (the project's folder, the user's, then ours: the first of a name wins), how they
are filled in (``script``), submitted (``submit``), and how a site's own script becomes a run's parameters
(``foreign``). Refuses a value that could become another line or word of the script.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hpcpools
from hpcpools.config import Config
from hpcpools.errors import ConfigError, NotFoundError
from hpcpools.templates.script import Script
from hpcpools.textsafe import one_line

SUFFIX = ".sbatch"
MAX_BYTES = 64 * 1024  # more is no script for people
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Template:
    """One template: its file's name without the suffix, where it lies, and what it says."""

    name: str
    path: Path
    script: Script


def folders(config: Config) -> tuple[Path, ...]:
    """Where templates are looked for, first wins. Raises ConfigError if the project names no folder."""
    own = Path(hpcpools.__file__).parent / "sbatch_templates"  # in a wheel
    if not own.is_dir():
        own = Path(hpcpools.__file__).parent.parent / "sbatch_templates"  # in the repository
    given = config.templates
    if given is not None and not given.is_dir():
        raise ConfigError(
            f"{config.file}: project.templates = {config.project.templates!r} is no folder",
            hint="create it, or take the key out",
        )
    return (*((given,) if given else ()), Path.home() / ".config" / "hpcpools" / "templates", own)


def names(config: Config) -> list[str]:
    """Every template's name, sorted."""
    return sorted({path.stem for path in _files(config)})


def find(config: Config, name: str) -> Template:
    """The template of that name. Raises NotFoundError; UsageError if it is no script."""
    if _NAME.fullmatch(name):
        for path in _files(config):
            if path.stem == name:
                return Template(name, path, Script(read(path)))
    raise NotFoundError(f"no template {one_line(name)!r}", hint=f"there are: {', '.join(names(config))}")


def read(path: Path) -> str:
    """The text of a script. Raises NotFoundError for what is no regular UTF-8 file of at most 64 KiB."""
    try:
        data = path.read_bytes() if path.is_file() and path.stat().st_size <= MAX_BYTES else None
        text = data.decode() if data is not None and b"\0" not in data else None
    except (OSError, UnicodeDecodeError):
        text = None
    if text is None:
        raise NotFoundError(
            f"{one_line(str(path))} cannot be read", hint="a text file in UTF-8, at most 64 KiB"
        )
    return text


def _files(config: Config) -> Iterator[Path]:
    for folder in folders(config):
        if folder.is_dir():
            yield from sorted(path for path in folder.glob(f"*{SUFFIX}") if _NAME.fullmatch(path.stem))
