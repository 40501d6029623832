"""Which schedules there are: those of the config, those added by command, and which of them are paused.

Owns the folder of what commands add and pause. It lies beside the runs, so that it outlives Redis; each fact
is a file of its own, so that two commands never meet in one. Refuses a name that is taken.

    <root>/.schedule/NAME.json     a schedule added by `hpcpools schedule add`: what the config would say
                     NAME.paused   it fires nothing since this file was made; also for names of the config
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from hpcpools import atomic, formats
from hpcpools import config as configuration
from hpcpools.config import Config
from hpcpools.errors import ConfigError, HpcpoolsError, NotFoundError, PermissionsError, RefusedError
from hpcpools.runs.directory import check_owned, secure_root
from hpcpools.schema import DEFAULT_SCHEDULE, Schedule
from hpcpools.textsafe import one_line

ADDED, PAUSED = ".json", ".paused"


class Declared(Struct, frozen=True):
    """One schedule. ``file`` declares it; ``paused``: since when, seconds since the epoch, None if not."""

    name: str
    schedule: Schedule
    file: str
    added: bool = False
    paused: float | None = None

    @property
    def state(self) -> str:
        """on, paused (by command), or off (in the config)."""
        if not self.schedule.enabled:
            return "off"
        return "on" if self.paused is None else "paused"


class Table(Struct, frozen=True):
    """All schedules by name, those of the config first; ``problems`` tells what was left out, and why."""

    entries: Mapping[str, Declared] = {}
    problems: tuple[str, ...] = ()

    def find(self, name: str) -> Declared:
        """The schedule called ``name``. Raises NotFoundError."""
        if name not in self.entries:
            raise NotFoundError(
                f"there is no schedule {one_line(name)!r}", hint="`hpcpools schedule` lists them"
            )
        return self.entries[name]


def read(config: Config) -> Table:
    """What is declared now. A file that is damaged, or clashes with the config, is among the problems."""
    place = _folder(config)
    names, problems = _names(place)
    declared = {**DEFAULT_SCHEDULE, **config.schedule}
    entries = {name: Declared(name, schedule, config.file) for name, schedule in declared.items()}
    for name in sorted(each.removesuffix(ADDED) for each in names if each.endswith(ADDED)):
        try:
            entries[name] = _parse(config, name, _content(place / f"{name}{ADDED}"), entries)
        except FileNotFoundError:
            continue  # removed just now
        except (ConfigError, RefusedError) as error:
            problems.append(error.message)
    for name in entries.keys() & {each.removesuffix(PAUSED) for each in names if each.endswith(PAUSED)}:
        since = _since(place / f"{name}{PAUSED}")
        old = entries[name]
        entries[name] = Declared(name, old.schedule, old.file, old.added, since)
    return Table(entries, tuple(problems))


def draft(config: Config, name: str, facts: Mapping[str, Any]) -> Declared:
    """The schedule that :func:`add` would write. Raises ConfigError naming the wrong key, RefusedError."""
    return _parse(config, name, dict(facts), read(config).entries)


def add(config: Config, name: str, facts: Mapping[str, Any]) -> None:
    """Declare a schedule, for good; ``facts`` are the keys of ``[schedule.NAME]``.

    Raises ConfigError, RefusedError for a name that is taken, HpcpoolsError if it cannot be written.
    """
    draft(config, name, facts)
    if not _create(config, f"{name}{ADDED}", dict(facts)):
        raise RefusedError(f"schedule {name} was added by someone else just now", hint="choose another name")


def check_remove(config: Config, name: str) -> None:
    """Raise NotFoundError, or RefusedError if ``name`` was not added by command."""
    found = read(config).find(name)
    if not found.added:
        raise RefusedError(
            f"schedule {name} is declared in {found.file}",
            hint=f"edit that file, or stop it with `hpcpools schedule pause {name}`",
        )


def remove(config: Config, name: str) -> None:
    """Forget a schedule that :func:`add` declared. Raises as :func:`check_remove`."""
    check_remove(config, name)
    for ending in (ADDED, PAUSED):
        _unlink(_folder(config) / f"{name}{ending}")


def check_pause(config: Config, name: str, *, paused: bool) -> bool:
    """Whether it would change anything. Raises NotFoundError, RefusedError for one that is off."""
    found = read(config).find(name)
    if found.state == "off":
        raise RefusedError(
            f"schedule {name} is switched off in {found.file}",
            hint="set enabled = true there first",
        )
    return (found.paused is not None) != paused


def pause(config: Config, name: str) -> bool:
    """Fire nothing of ``name`` from now on; False if it was paused. Raises as :func:`check_pause`."""
    return check_pause(config, name, paused=True) and _create(config, f"{name}{PAUSED}", None)


def resume(config: Config, name: str) -> bool:
    """Fire the next slot of ``name`` again; False if it was not paused. Raises as :func:`check_pause`."""
    if not check_pause(config, name, paused=False):
        return False
    _unlink(_folder(config) / f"{name}{PAUSED}")
    return True


def _folder(config: Config) -> Path:
    return config.root / ".schedule"


def _names(place: Path) -> tuple[list[str], list[str]]:
    """The files there, and why there are none. Raises OSError if nobody can tell now."""
    try:
        check_owned(place)
        return os.listdir(place), []
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    except PermissionsError as error:
        return [], [error.message]


def _content(file: Path) -> dict[str, Any]:
    try:
        value = atomic.read_json(file)
    except (ValueError, RecursionError):
        value = ()
    if value is None:
        raise FileNotFoundError(file)
    if not isinstance(value, dict):
        raise ConfigError(f"{file}: is no schedule", hint="remove the file")
    return value


def _parse(config: Config, name: str, facts: dict[str, Any], taken: Mapping[str, Declared]) -> Declared:
    """``facts`` checked like a table of the config. Raises ConfigError, RefusedError if the name is taken."""
    if name in taken:
        raise RefusedError(
            f"schedule {name} is declared already, in {taken[name].file}",
            hint="choose another name; `hpcpools schedule` lists those that are taken",
        )
    file = _folder(config) / f"{name}{ADDED}"
    formats.check(facts.pop("format", formats.FORMAT), str(file))
    data = {"schedule": {name: facts}, "short": {"queues": list(config.short.queues)}}
    checked = configuration.parse(data, file, {})
    if "task" not in facts:
        raise ConfigError(f"{file}: schedule.{name}: names no task", hint="write package.module:function")
    return Declared(name, checked.schedule[name], str(file), added=True)


def _since(mark: Path) -> float | None:
    try:
        return mark.stat().st_mtime
    except FileNotFoundError:  # resumed just now
        return None


def _create(config: Config, name: str, content: Any) -> bool:
    place = _folder(config)
    try:
        secure_root(config.root)
        place.mkdir(mode=0o700, exist_ok=True)
        check_owned(place)
        return atomic.create_json(place / name, content)
    except OSError as error:
        raise HpcpoolsError(
            f"cannot write in {place}: {error.strerror or error}", hint="check space, quota and mode there"
        ) from None


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
        atomic.fsync_directory(path.parent)
    except OSError as error:
        raise HpcpoolsError(
            f"cannot remove {path}: {error.strerror or error}", hint="check the mode of the folder"
        ) from None
