"""What a run was submitted from: Python, packages, host, git, configuration; kept as ``environment.json``.

Owns that file of the run and what two of them differ in. Refuses to write down a secret.
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
import re
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

import hpcpools
from hpcpools import atomic
from hpcpools.account import user
from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError
from hpcpools.runs.directory import RunDirectory
from hpcpools.training import git

FILE = "environment.json"
HIDDEN = "[hidden]"
_SECRET = re.compile(r"token|secret|key|pass(?!word_file)|credential|webhook", re.IGNORECASE)
_ASSIGNED = re.compile(r"(\w*(?:token|secret|key|pass|credential)\w*\s*=\s*)(\"[^\"]*\"|'[^']*'|\S+)", re.I)
_WEB = re.compile(r"(https?://)(?:[^/@\s]*@)?([^/\s]+)/\S+")
_MOST = 12  # packages named in one line of differences


def gather(config: Config, workdir: str) -> dict[str, Any]:
    """:func:`here`, or nothing: a note for people is no reason to refuse a training."""
    with contextlib.suppress(OSError, HpcpoolsError):
        return here(config, workdir)
    return {}


def record(runs: Sequence[RunDirectory], facts: dict[str, Any]) -> None:
    """Write the facts into runs that were submitted together, as far as there are any."""
    with contextlib.suppress(OSError):
        for run in runs if facts else ():
            atomic.write_json(run.path / FILE, facts)


def read(run: RunDirectory) -> dict[str, Any] | None:
    """The recorded facts; None if there are none that can be read."""
    try:
        found = atomic.read_json(run.path / FILE)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def here(config: Config, workdir: str) -> dict[str, Any]:
    """The facts of this process, this host and the work tree of ``workdir``, as plain JSON values."""
    tree = git.work_tree(Path(workdir))
    found: dict[str, Any] | None = None
    if tree is not None:
        found = {
            "commit": tree.commit,
            "branch": tree.branch,
            "remote": tree.remote,
            "dirty": bool(git.changes(tree)),
        }
    text = Path(config.file).read_bytes() if config.file else b""
    return {
        "at": time.time(),
        "hpcpools": hpcpools.__version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "prefix": sys.prefix,
        "packages": packages(),
        "host": socket.gethostname(),
        "system": platform.platform(),
        "user": user(),
        "git": found,
        "config": {
            "file": config.file,
            "sha256": hashlib.sha256(text).hexdigest(),
            "values": without_secrets(msgspec.to_builtins(config, enc_hook=float)),
        },
    }


def packages() -> dict[str, str]:
    """Every installed package of this Python: name → version."""
    found: dict[str, str] = {}
    for each in metadata.distributions():
        with contextlib.suppress(Exception):  # a package that is half removed says anything
            # The first on sys.path is the one that is imported.
            found.setdefault(str(each.metadata["Name"]), str(each.version))
    found.pop("None", None)
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def without_secrets(value: Any) -> Any:
    """``value`` with everything hidden whose name says secret, and the secrets inside text."""
    if isinstance(value, dict):
        return {
            name: HIDDEN if inner and _says_secret(str(name)) else without_secrets(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_secrets(inner) for inner in value]
    if isinstance(value, str):
        text = _WEB.sub(rf"\1\2/{HIDDEN}", value)
        return _ASSIGNED.sub(rf"\1{HIDDEN}", git.without_credentials(text))
    return value


def _says_secret(name: str) -> bool:
    """By its name; the routing table's names are those of tasks (``tasks:tokenize``)."""
    return ":" not in name and _SECRET.search(name) is not None


def differences(then: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """One line for each thing that is not as it was."""
    for name in ("python", "hpcpools", "prefix", "host", "system", "user"):
        if then.get(name) != now.get(name):
            yield f"{name}: {then.get(name)} then, {now.get(name)} now"
    old, new = then.get("packages") or {}, now.get("packages") or {}
    changed = [f"{name} {old[name]} → {new[name]}" for name in old if name in new and old[name] != new[name]]
    for word, names in (
        ("changed", changed),
        ("gone", [f"{name} {old[name]}" for name in old if name not in new]),
        ("new", [f"{name} {new[name]}" for name in new if name not in old]),
    ):
        if names:
            more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
            yield f"packages {word}: {', '.join(names[:_MOST])}{more}"
    if (then.get("config") or {}).get("sha256") != (now.get("config") or {}).get("sha256"):
        yield "the configuration file has changed (the recorded resources and set-up lines are used)"
