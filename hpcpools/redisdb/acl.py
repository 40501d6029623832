"""The users of a Redis that two login nodes share: one per role, each with what the role needs (SEC-4).

Owns the roles and the files that an administrator of that Redis takes over. Refuses to overwrite: a second
set of passwords would lock out whoever uses the first.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

from hpcpools import atomic
from hpcpools.errors import RefusedError
from hpcpools.redisdb import runtime
from hpcpools.redisdb.keys import PREFIX

ACL_FILE = "users.acl"
KEY_FILE = "pool.key"
PASSWORD_BYTES = 32

_KEYS = f"~rq:* ~{PREFIX}*"
# Redis' own categories: `redis-cli ACL CAT`. INFO and CLIENT LIST are "dangerous" to Redis; rq's worker asks
# both, and they show no data.
ROLES = {
    "pool": f"{_KEYS} &rq:* +@all -@admin -@dangerous +info +client|list",
    "dashboard": f"{_KEYS} resetchannels +@read +@connection -@admin -@dangerous +info",
}


PURPOSE = {
    "acl": "aclfile in that Redis' redis.conf",
    "pool": "redis.password_file of every login node",
    "dashboard": "for programs that only read",
    "key": "redis.key_file of every login node",
}


def acl_file(passwords: dict[str, str]) -> str:
    """An aclfile for redis.conf: nobody without a password, each role with what it needs."""
    lines = ["user default off nopass sanitize-payload resetchannels -@all"]
    for role, rights in ROLES.items():
        digest = hashlib.sha256(passwords[role].encode()).hexdigest()
        lines.append(f"user {role} on sanitize-payload #{digest} {rights}")
    return "\n".join(lines) + "\n"


def files(folder: Path) -> dict[str, Path]:
    """What :func:`write` makes: the aclfile, one password per role, the key that signs jobs."""
    return {
        "acl": folder / ACL_FILE,
        **{role: folder / f"{role}.password" for role in ROLES},
        "key": folder / KEY_FILE,
    }


def write(folder: Path) -> dict[str, Path]:
    """Make the files, mode 0600, in ``folder``, mode 0700.

    Raises RefusedError if one is there already, PermissionsError if the folder is open to others.
    """
    made = files(folder)
    runtime.secure_directory(folder)
    if there := [path for path in made.values() if path.exists()]:
        raise RefusedError(
            f"{there[0]} is there already",
            hint="new passwords would lock out who uses these; name another folder",
        )
    passwords = {role: secrets.token_urlsafe(PASSWORD_BYTES) for role in ROLES}
    for role, password in passwords.items():
        atomic.create_bytes(made[role], password.encode() + b"\n")
    atomic.create_bytes(made["key"], secrets.token_hex(PASSWORD_BYTES).encode() + b"\n")
    atomic.create_bytes(made["acl"], acl_file(passwords).encode())  # last: without it the rest means nothing
    return made
