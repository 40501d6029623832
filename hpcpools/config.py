"""The configuration: found, read, overlaid from the environment, validated, resolved.

Owns the file hpcpools.toml and is the only reader of the environment on the login side. Refuses any
unknown key and any value out of range, naming file, key, value and what is allowed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from hpcpools import durations
from hpcpools.errors import ConfigError, HpcpoolsError, PermissionsError
from hpcpools.schema import (
    DEFAULT_SCHEDULE,
    LANE_QUEUE,
    TRAINING_QUEUE,
    Callable,
    Dashboard,
    Exporter,
    GpuChecks,
    Lane,
    Name,
    Notify,
    Project,
    Redis,
    Restarts,
    Retention,
    Schedule,
    ScheduleName,
    Seconds,
    Section,
    Services,
    Short,
    Slurm,
    Snapshot,
    Telemetry,
    Training,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE_NAME = "hpcpools.toml"


class Config(Section, frozen=True):
    """The whole file, plus where it was found. Paths in it are relative to that file's folder."""

    project: Project = Project()
    training: Training = Training()
    restarts: Restarts = Restarts()
    snapshot: Snapshot = Snapshot()
    short: Short = Short()
    lane: Lane = Lane()
    routing: dict[Callable, Name] = msgspec.field(default_factory=dict)
    redis: Redis = Redis()
    slurm: Slurm = Slurm()
    gpu_checks: GpuChecks = GpuChecks()
    telemetry: Telemetry = Telemetry()
    notify: Notify = Notify()
    services: Services = Services()
    exporter: Exporter = Exporter()
    dashboard: Dashboard = Dashboard()
    schedule: dict[ScheduleName, Schedule] = msgspec.field(default_factory=dict)
    retention: Retention = Retention()
    continuous_evaluation: dict[Callable, Callable] = msgspec.field(default_factory=dict)
    file: str = ""

    @property
    def folder(self) -> Path:
        """The folder of the configuration file."""
        return Path(self.file).parent

    @property
    def root(self) -> Path:
        """The folder of all run directories; on a cluster it must be shared with the compute nodes."""
        return self._resolve(self.project.root)

    @property
    def templates(self) -> Path | None:
        """The project's own folder of sbatch templates."""
        return self._resolve(self.project.templates) if self.project.templates else None

    @property
    def has_lane(self) -> bool:
        """Whether short tasks can be carried by Slurm here."""
        return bool(self.lane.partition) and self.training.engine != "local"

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues in Redis: those of the short pool, and the lane's if there is one."""
        return (*self.short.queues, LANE_QUEUE) if self.has_lane else self.short.queues

    @property
    def python_path(self) -> tuple[str, ...]:
        """Folders that hold the user's modules, absolute."""
        return tuple(str(self._resolve(part)) for part in self.project.path)

    @property
    def runtime_dir(self) -> Path:
        """Sockets, locks, keys, Redis data and service logs of this pool on this host; mode 0700."""
        if self.services.runtime_dir:
            return self._resolve(self.services.runtime_dir)
        digest = hashlib.sha256(str(Path(self.file).resolve()).encode()).hexdigest()[:8]
        slug = re.sub(r"[^A-Za-z0-9-]", "-", self.folder.name)[:24]
        return self.machine_dir / f"{slug}-{digest}"

    @property
    def machine_dir(self) -> Path:
        """What all pools of this user on this host share (the lock of the local training slot)."""
        base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
        return Path(base) / "hpcpools" / socket.gethostname().split(".")[0]

    @property
    def schedules(self) -> dict[str, Schedule]:
        """The built-in periodic tasks, overruled and extended by the file; disabled ones left out."""
        merged = {**DEFAULT_SCHEDULE, **self.schedule}
        return {name: entry for name, entry in merged.items() if entry.enabled}

    def _resolve(self, text: str) -> Path:
        return Path(os.path.normpath(self.folder.resolve() / Path(text).expanduser()))


def environment() -> dict[str, str]:
    """A copy of this process's environment (the one place where it is read)."""
    return dict(os.environ)


def forget(name: str) -> None:
    """Take a variable out of this process's environment."""
    os.environ.pop(name, None)


def environment_as_it_is() -> dict[bytes, bytes]:
    """The live mapping behind this process's environment, for a cheap comparison with a copy of it."""
    return os.environ._data  # type: ignore[attr-defined,no-any-return]


def restore_environment(copy: dict[bytes, bytes]) -> None:
    """Set this process's environment to what it was."""
    os.environb.clear()
    os.environb.update(copy)


def activate(config: Config) -> None:
    """Make ``config`` the one that this process and its children find, wherever they work."""
    os.environ["HPCPOOLS_CONFIG"] = config.file


def locate(start: Path | None = None) -> Path:
    """The configuration file: ``HPCPOOLS_CONFIG``, then the working directory upwards, then ~/.config.

    Raises ConfigError if there is none.
    """
    if given := os.environ.get("HPCPOOLS_CONFIG"):
        path = Path(given).expanduser().absolute()
        if not path.is_file():
            raise ConfigError(f"HPCPOOLS_CONFIG={given!r} is not a file", hint="point it at a hpcpools.toml")
        return path
    here = (start or Path.cwd()).absolute()
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "hpcpools" / FILE_NAME
    for candidate in [*(folder / FILE_NAME for folder in (here, *here.parents)), home]:
        if candidate.is_file():
            return candidate
    raise ConfigError(
        f"no {FILE_NAME} in {here} or above, nor {home}", hint="run `hpcpools init` in your project folder"
    )


def load(file: Path | None = None) -> Config:
    """Read, overlay ``HPCPOOLS_SECTION__KEY`` variables, validate. Raises ConfigError, PermissionsError."""
    try:
        path = (file or locate()).absolute()
        with path.open(encoding="utf-8") as opened:
            _check_owner(path, os.fstat(opened.fileno()))
            text = opened.read()
    except PermissionError as error:
        raise PermissionsError(f"{error.filename} may not be read by uid {os.geteuid()}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}", hint="check the file's mode") from None
    return parse_text(text, path, os.environ)


def _check_owner(path: Path, facts: os.stat_result) -> None:
    """Whose file it is, that user's code and shell lines are run; so it must be ours, or root's (SEC-14)."""
    if facts.st_uid not in (os.geteuid(), 0) or facts.st_mode & stat.S_IWOTH:
        raise PermissionsError(
            f"{path} has owner uid {facts.st_uid} and mode {stat.S_IMODE(facts.st_mode):04o}; "
            f"you are uid {os.geteuid()}, and a pool is driven by the one user it belongs to"
        )


def parse_text(text: str, path: Path, env: Mapping[str, str] | None = None) -> Config:
    """``text`` as if it stood in ``path``. Raises ConfigError."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}", hint="see https://toml.io") from None
    return parse(data, path, env or {})


def parse(data: dict[str, Any], path: Path, env: Mapping[str, str]) -> Config:
    """``data`` as read from ``path``, with the overlay of ``env``, as a Config. Raises ConfigError."""
    overlaid = _overlay(data, env)
    if "file" in data:
        raise ConfigError(f"{path}: unknown key 'file'", hint="see docs/configuration.md")
    try:
        config = msgspec.convert({**data, "file": str(path)}, Config, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise _explain(error, data, path, overlaid) from None
    for name, entry in config.schedules.items():
        if entry.queue not in config.short.queues:
            raise ConfigError(
                f"{path}: schedule.{name}.queue = {entry.queue!r} is no queue of the short pool",
                hint=f"allowed: {', '.join(config.short.queues)}",
            )
    for task, queue in config.routing.items():
        if queue not in (*config.short.queues, LANE_QUEUE, TRAINING_QUEUE):
            raise ConfigError(
                f"{path}: routing.{task!r} = {queue!r} is no queue",
                hint=f"allowed: {', '.join((*config.short.queues, LANE_QUEUE, TRAINING_QUEUE))}",
            )
    if unknown := sorted(set(config.lane.overflow_queues) - set(config.short.queues)):
        raise ConfigError(
            f"{path}: lane.overflow_queues: {unknown[0]!r} is no queue of the short pool",
            hint=f"allowed: {', '.join(config.short.queues)}",
        )
    for folder in (config.root, config.runtime_dir):
        if re.search(r"[\x00-\x1f\x7f%\\'\"]", str(folder)):
            raise ConfigError(
                f"{path}: folder {str(folder)!r} holds %, a quote, a backslash or a control character",
                hint="Slurm expands % in file names; choose a plainer path",
            )
    return config


def _overlay(data: dict[str, Any], env: Mapping[str, str]) -> dict[str, str]:
    """Lay ``HPCPOOLS_A__B=value`` over ``data`` in place; returns {dotted key: variable name}."""
    taken = {}
    for variable, text in sorted(env.items()):
        if not variable.startswith("HPCPOOLS_") or "__" not in variable:
            continue
        keys = variable.removeprefix("HPCPOOLS_").lower().split("__")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        place = data
        for key in keys[:-1]:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise ConfigError(f"{variable}: {key!r} is no section", hint="see docs/configuration.md")
        place[keys[-1]] = value
        taken[".".join(keys)] = variable
    return taken


def _decode(kind: type, value: Any) -> Any:
    if kind is Seconds:
        try:
            return Seconds(durations.seconds(value))
        except HpcpoolsError as error:
            raise ValueError(str(error)) from None
    raise NotImplementedError(kind)


def _explain(
    error: msgspec.ValidationError, data: dict[str, Any], path: Path, overlaid: dict[str, str]
) -> ConfigError:
    """msgspec's message with its ``$.a.b`` path turned into file, key and value."""
    message, _, where = str(error).partition(" - at `")
    keys: list[str] = []
    value: Any = data
    for name, index in re.findall(r"\.([^.\[`]+)|\[(\.\.\.|\d+)\]", where.partition("$")[2]):
        key = name or (_culprit(data, keys) if index == "..." else index)
        keys.append(key)
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
    if where.startswith("key`"):  # the name of an entry is wrong, not its value
        value = _culprit(data, keys)
        keys.append(value)
    elif unknown := re.search(r"unknown field `([^`]+)`", message):
        keys.append(unknown.group(1))
    dotted = ".".join(keys)
    shown = "" if isinstance(value, dict) or not keys else f" = {value!r}"
    return ConfigError(
        f"{overlaid.get(dotted) or path}: {dotted or 'file'}{shown}: {message}",
        hint="docs/configuration.md lists every key",
    )


def _culprit(data: dict[str, Any], keys: list[str]) -> str:
    """The entry of the table at ``keys`` that is wrong: msgspec says only that one is."""
    table: Any = data
    for key in keys:
        table = table.get(key, {}) if isinstance(table, dict) else {}
    for name, entry in table.items():
        only: dict[str, Any] = {name: entry}
        for key in reversed(keys):
            only = {key: only}
        try:
            msgspec.convert(only, Config, dec_hook=_decode)
        except msgspec.ValidationError:
            return str(name)
    return "?"
