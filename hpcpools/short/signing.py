"""The pool's secret key, and signatures made with it: who cannot read the key cannot make us run anything.

Owns ``pool.key`` in the private runtime directory and the canonical form that is signed. Refuses a key
file with the wrong owner or mode.
"""

from __future__ import annotations

import functools
import hmac
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from hpcpools import atomic
from hpcpools.config import Config
from hpcpools.errors import PermissionsError
from hpcpools.redisdb import runtime

FILE_NAME = "pool.key"
KEY_BYTES = 32
_PURPOSE = b"hpcpools short job, version 1"


def pool_key(config: Config) -> bytes:
    """The 32 random bytes of this pool, created at the first call unless ``redis.key_file`` names them.

    Raises PermissionsError if the directory or the file is not ours alone, or holds no key; ConfigError if
    the named one is not there.
    """
    path = runtime.secure_directory(config.runtime_dir) / FILE_NAME
    if config.redis.key_file:
        path = config.folder / Path(config.redis.key_file).expanduser()
    elif not os.path.lexists(path):
        atomic.create_bytes(path, secrets.token_hex(KEY_BYTES).encode() + b"\n")
    try:
        key = bytes.fromhex(runtime.private_text(path))
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise PermissionsError(
            f"{path} does not hold {KEY_BYTES} bytes in hex",
            hint="something else wrote it; remove it, a new key is made and waiting jobs are refused",
        )
    return key


def sign(key: bytes, fields: Mapping[str, bytes]) -> str:
    """HMAC-SHA256 in hex over every name and value, each with its length, so that no two maps look alike."""
    if len(key) != KEY_BYTES:
        raise ValueError("no pool key: use a job class made by hpcpools.short.job.bind")
    parts: list[bytes] = []
    for name, label, empty in _layout(tuple(fields)):
        if value := fields[name]:
            parts += (label, len(value).to_bytes(8, "big"), value)
        else:
            parts.append(empty)
    digest = _begun(key).copy()
    digest.update(b"".join(parts))
    return digest.hexdigest()


@functools.lru_cache(maxsize=16)
def _layout(names: tuple[str, ...]) -> list[tuple[str, bytes, bytes]]:
    """Of each name in order: itself with its length, and the same before a value that is empty."""
    encoded = [(name, name.encode()) for name in sorted(names)]
    labels = [(name, len(text).to_bytes(8, "big") + text) for name, text in encoded]
    return [(name, label, label + bytes(8)) for name, label in labels]


@functools.lru_cache(maxsize=16)
def _begun(key: bytes) -> hmac.HMAC:
    """With the key and the purpose taken in, once for many jobs."""
    return hmac.new(key, _PURPOSE, "sha256")


def verify(key: bytes, fields: Mapping[str, bytes], signature: bytes) -> bool:
    """True if ``signature`` (hex, as stored) was made by :func:`sign`; in constant time."""
    return hmac.compare_digest(sign(key, fields).encode(), signature)
