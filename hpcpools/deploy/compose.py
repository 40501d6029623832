"""Files for docker compose: the whole of one machine without Slurm, with its monitoring.

Owns which files there are, their modes and their secrets. Refuses to run anything as root, and to replace a
secret, the data, or the list of the user's own packages.
"""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import hpcpools
from hpcpools import atomic, deploy, monitoring
from hpcpools.config import Config
from hpcpools.errors import UsageError
from hpcpools.monitoring import web
from hpcpools.services import listening
from hpcpools.textsafe import one_line

# Where a template goes.
_RENDERED = {
    "docker-compose.yml": "docker-compose.yml",
    "gpus.yml": "gpus.yml",
    "Dockerfile": "Dockerfile",
    ".env.example": "env.example",
    "requirements.txt": "requirements.txt",
    "wheels/README": "wheels.txt",
    "prometheus/prometheus.yml": "prometheus.yml",
    "grafana/provisioning/datasources/hpcpools.yml": "datasources.yml",
    "grafana/provisioning/dashboards/hpcpools.yml": "dashboards.yml",
    "loki/loki.yml": "loki.yml",
}
# What the containers write, the runtime directory and its logs among it; and the secrets.
PRIVATE = (
    "data",
    "data/pool",
    "data/pool/logs",
    "data/prometheus",
    "data/grafana",
    "data/loki",
    "data/alloy",
    "secrets",
)
PASSWORD = "secrets/grafana-admin-password"  # noqa: S105  (a file's name)
TOKEN = f"data/pool/{web.TOKEN_NAME}"
_KEPT = "requirements.txt"
_LOKI = "http://127.0.0.1:3100"  # in the network that all containers share


def owner(given: str) -> tuple[int, int]:
    """``UID:GID``, or if empty this user's, as which all containers run. Raises UsageError."""
    if given and not re.fullmatch(r"[0-9]{1,9}:[0-9]{1,9}", given):
        raise UsageError(f"user {one_line(given)!r} is wrong", hint="two numbers, such as 1000:1000")
    uid, gid = map(int, given.split(":")) if given else (os.getuid(), os.getgid())
    if uid == 0:
        raise UsageError(
            "the containers would run as root", hint="be the pool's owner, or name it with --user UID:GID"
        )
    if os.getuid() not in (0, uid):
        raise UsageError(f"only root can write files for uid {uid}", hint="leave --user out")
    return uid, gid


def files(config: Config, user: tuple[int, int]) -> dict[str, str]:
    """Path in the folder → text, of all that holds no secret. Raises UsageError for odd paths."""
    for word in (config.file, str(config.root)):
        deploy.check(word)
    values: Mapping[str, str] = {
        "name": project_name(config),
        "version": hpcpools.__version__,
        "uid": str(user[0]),
        "gid": str(user[1]),
        "config_name": Path(config.file).name,
        "project": str(config.folder),
        "runs": str(config.root),
        "packages": "torch" if importlib.util.find_spec("torch") else "# torch",
    }
    made = {path: deploy.filled(f"compose/{name}", values) for path, name in _RENDERED.items()}
    made["constraints.txt"] = _constraints()
    made[".gitignore"] = "/data/\n/secrets/\n/.env\n"
    made[".dockerignore"] = "*\n!wheels\n!constraints.txt\n!requirements.txt\n"
    made["prometheus/alerts.yml"] = monitoring.shipped("alerts")
    made["grafana/dashboards/hpcpools.json"] = monitoring.shipped("grafana")
    made["alloy/config.alloy"] = deploy.shipper("alloy", "/logs", _LOKI)
    return made


def project_name(config: Config) -> str:
    """The name of the compose project, the image and the host in it."""
    return deploy.name(config).lower()[:50].rstrip("-")


def write(config: Config, folder: Path, user: tuple[int, int]) -> list[Path]:
    """Write all files, make the folders and the secrets that are missing; the files that were written.

    The folder and the data get mode 0700, secrets 0600, all of them the owner ``user``.
    """
    made = files(config, user)
    if (folder / _KEPT).exists():
        del made[_KEPT]
    private = [folder, *(folder / name for name in PRIVATE)]
    for place in (*private, config.root):
        if not place.exists():
            place.mkdir(parents=True, mode=0o700)
            os.chown(place, *user)
    for place in private:
        place.chmod(0o700)
    for name, text in made.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(folder / name, text.encode(), mode=0o644)
    atomic.create_bytes(folder / PASSWORD, secrets.token_urlsafe(24).encode() + b"\n")
    atomic.create_bytes(folder / TOKEN, secrets.token_urlsafe(listening.TOKEN_BYTES).encode() + b"\n")
    if os.getuid() != user[0]:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, *user, follow_symlinks=False)
    return [folder / name for name in made]


def _constraints() -> str:
    """The versions of all packages here, as limits: the image gets what was seen to work."""
    found = {
        re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower(): one.version.partition("+")[0]
        for one in metadata.distributions()
        if one.metadata["Name"]
    }
    found.pop("hpcpools", None)
    lines = [f"{name}=={version}" for name, version in sorted(found.items())]
    return "\n".join(["# The versions seen to work: limits, not a list of what is installed.", *lines, ""])
