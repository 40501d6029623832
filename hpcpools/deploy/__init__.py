"""Files for what is in charge of the services elsewhere: systemd, cron, scrontab, supervisord, log shippers.

Owns their text; the templates lie beside this file, and read like what they become. Refuses values that would
end a line or a word in them. ``compose`` is for docker compose, ``container`` what runs in it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from string import Template
from typing import Literal

from hpcpools import interpreter
from hpcpools.config import Config
from hpcpools.errors import UsageError
from hpcpools.redisdb import runtime
from hpcpools.services import place
from hpcpools.textsafe import one_line

_PLAIN = re.compile(r"[A-Za-z0-9/_.,:@+=-]+")  # what needs no quotes in any of the files
_SIZE = re.compile(r"[1-9][0-9]{0,6}[KMGT]")
_LOKI = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9/._-]*)?")
_TIME = re.compile(r"([0-9]+-)?[0-9]{1,2}:[0-9]{2}:[0-9]{2}")
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Agent = Literal["alloy", "vector"]


def name(config: Config) -> str:
    """The unit's name: that of the runtime directory, which is unique for a project and a host's user."""
    return f"hpcpools-{re.sub(r'[^A-Za-z0-9-]', '-', config.runtime_dir.name)}"


def render(
    config: Config,
    template: str,
    *,
    memory: str = "4G",
    account: str = "",
    time: str = "1-00:00:00",
    node: str = "",
) -> str:
    """One of the templates, filled in. Raises UsageError for a value that does not fit."""
    for what, value, pattern in (("memory", memory, _SIZE), ("time", time, _TIME)):
        if not pattern.fullmatch(value):
            raise UsageError(f"{what} {one_line(value)!r} is wrong", hint="such as 4G, and 1-00:00:00")
    if node and not _NODE.fullmatch(node):
        raise UsageError(f"node {one_line(node)!r} is no name of one node", hint="see `sinfo --Node`")
    if account and not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", account):
        raise UsageError(
            f"account {one_line(account)!r} is no user name", hint="lower case letters, digits, - _"
        )
    if account and not config.services.runtime_dir:
        raise UsageError(
            f"{config.file} names no services.runtime_dir, and the default lies in the home of who asks",
            hint=f"set it to a folder of {account}, such as /var/lib/hpcpools",
        )
    argv = interpreter.argv("hpcpools", "--config", config.file, "up")
    for word in (*argv, str(config.root), str(config.runtime_dir)):
        check(word)
    partition = config.lane.partition or ""
    values: Mapping[str, str] = {
        "name": name(config),
        "project": str(config.folder),
        "command": shlex.join([*argv, "--foreground"]),
        "command_ini": shlex.join([*argv, "--foreground"]).replace("%", "%%"),
        "shell_up": shlex.join(argv) + " >/dev/null 2>&1",
        "shell_foreground": shlex.join([*argv, "--foreground"]),
        "writable": f"{config.root} {config.runtime_dir}",
        "partition_option": f"--partition={partition} " if partition else "",
        "node_option": f"#SCRON --nodelist={node}\n" if node else "",
        "memory": memory,
        "account": account,
        "time": time,
    }
    return filled(template, values)


def home_node(config: Config, given: str) -> str:
    """The node for a job that runs again and again: ``given``, or where the pool lives; empty if any will do.

    Our own Redis keeps its data on the node where it runs, so the job must come back to that one. Raises
    UsageError if nobody says which it is.
    """
    if given or not runtime.uses_own_redis(config):
        return given
    there = place.newest(config.root)
    if there is None:
        raise UsageError(
            "Slurm would start the services on any node, and Redis' data stay on the one that was first",
            hint="name it with --node (`sinfo --Node` lists them), or share a Redis: redis.url",
        )
    return there.host.partition(".")[0]


def shipper(agent: Agent, logs: str, loki: str) -> str:
    """The configuration with which ``agent`` sends the log files in the folder ``logs`` to ``loki``.

    Raises UsageError for a folder or an address that does not fit.
    """
    check(logs)
    if not _LOKI.fullmatch(loki):
        raise UsageError(
            f"{one_line(loki)!r} is no address of Loki",
            hint="such as http://127.0.0.1:3100; credentials go into the file that is made",
        )
    return filled(
        {"alloy": "alloy.alloy", "vector": "vector.toml"}[agent], {"logs": logs, "loki": loki.rstrip("/")}
    )


def filled(template: str, values: Mapping[str, str]) -> str:
    """``template`` with ``values`` in their places."""
    text = (resources.files("hpcpools.deploy") / "templates" / template).read_text(encoding="utf-8")
    return Template(text).substitute(values)


def unit_file(config: Config, system: bool) -> Path:
    """Where systemd looks for it."""
    folder = Path("/etc/systemd/system") if system else Path.home() / ".config" / "systemd" / "user"
    return folder / f"{name(config)}.service"


def check(word: str) -> None:
    """Raise UsageError for a word that one of the files would read otherwise."""
    if not _PLAIN.fullmatch(word):
        raise UsageError(
            f"{one_line(word)!r} holds a character that these files treat as special",
            hint="use paths of letters, digits and /_.,:@+=-",
        )
