"""The private directory of a pool on this host: mode 0700, ours, on a path short enough for sockets.

Owns its creation and its checks. Refuses, and never repairs, what someone else made or opened up.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hpcpools.config import Config
from hpcpools.errors import ConfigError, PermissionsError, RedisUnavailableError

# sockaddr_un holds 108 bytes on Linux; some room for the temporary names of other programs.
MAX_SOCKET_PATH = 100
REDIS_SOCKET = "redis.sock"


def uses_own_redis(config: Config) -> bool:
    """Whether hpcpools starts Redis itself (no ``redis.url`` in the config)."""
    return not config.redis.url


def own_socket(config: Config) -> Path:
    """Where our own Redis listens. Raises ConfigError if the path is too long for a socket."""
    return socket_path(config.runtime_dir, REDIS_SOCKET)


def started_socket(config: Config) -> Path:
    """Where our own Redis listens, once it and its directory are found to be ours alone.

    Raises RedisUnavailableError if it is not started, PermissionsError, ConfigError.
    """
    where = own_socket(config)
    try:
        check_directory(config.runtime_dir)
        check_socket(where)
    except FileNotFoundError:
        raise RedisUnavailableError(
            f"Redis at {where} does not answer: it is not started", hint="start it with `hpcpools up`"
        ) from None
    return where


def secure_directory(path: Path) -> Path:
    """Create ``path`` and its missing parents with mode 0700, or check the one that is there.

    Returns ``path``. Raises PermissionsError if it is a symlink or no directory, belongs to someone else,
    is open to group or others, or lies below a directory in which anyone may rename it.
    """
    for folder in [*reversed(path.parents), path]:
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            continue
        except OSError as error:
            raise PermissionsError(
                f"cannot create {folder}: {error.strerror}",
                hint="set services.runtime_dir to a folder of yours on a local disk",
            ) from None
    check_directory(path)
    return path


def check_directory(path: Path) -> None:
    """Raise PermissionsError unless ``path`` is a directory of ours with mode 0700 that nobody can swap.

    Raises FileNotFoundError if there is none.
    """
    facts = path.lstat()
    if not stat.S_ISDIR(facts.st_mode):
        kind = "a symlink" if stat.S_ISLNK(facts.st_mode) else "not a directory"
        raise PermissionsError(
            f"{path} is {kind}", hint="remove it, or set services.runtime_dir to a folder of your own"
        )
    mode = stat.S_IMODE(facts.st_mode)
    if facts.st_uid != os.geteuid() or mode & 0o777 != 0o700:  # set-gid may be inherited and is harmless
        raise PermissionsError(
            f"{path} has owner uid {facts.st_uid} and mode {mode:04o}; "
            f"it must be uid {os.geteuid()} and mode 0700",
            hint=f"see who opened it and what is in it, then `chmod 700 {path}`",
        )
    for parent in path.resolve().parents:
        above = parent.stat()
        if above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX:
            raise PermissionsError(
                f"{parent} (mode {stat.S_IMODE(above.st_mode):04o}) lets anyone replace {path}",
                hint="set services.runtime_dir to a folder below your home",
            )


def check_socket(path: Path) -> None:
    """Raise PermissionsError unless ``path`` is a unix socket of ours, closed to group and others.

    Raises FileNotFoundError if there is none.
    """
    facts = path.lstat()
    mode = stat.S_IMODE(facts.st_mode)
    if not stat.S_ISSOCK(facts.st_mode) or facts.st_uid != os.geteuid() or mode & 0o077:
        raise PermissionsError(
            f"{path} has owner uid {facts.st_uid} and mode {mode:04o}; "
            f"it must be a socket of uid {os.geteuid()} with mode 0600",
            hint="run `hpcpools down`, remove it, then `hpcpools up`",
        )


def socket_path(directory: Path, name: str) -> Path:
    """``directory/name``, if the kernel can bind it. Raises ConfigError if it is too long."""
    path = directory / name
    size = len(os.fsencode(path))
    if size > MAX_SOCKET_PATH:
        raise ConfigError(
            f"socket path {path} has {size} bytes; the limit is {MAX_SOCKET_PATH}",
            hint="set services.runtime_dir to a shorter path on a local disk",
        )
    return path


def private_text(path: Path, *, limit: int = 4096) -> str:
    """A secret read from ``path``, without the newline at its end.

    Raises PermissionsError unless it is a regular file of ours with mode 0600 or less; ConfigError if it
    cannot be read, is empty, or is longer than ``limit`` bytes.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}", hint="it holds a secret; mode 0600"
        ) from None
    with os.fdopen(fd, "rb") as file:
        facts = os.fstat(fd)
        mode = stat.S_IMODE(facts.st_mode)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid() or mode & 0o177:
            raise PermissionsError(
                f"{path} has owner uid {facts.st_uid} and mode {mode:04o}; it must be a file of yours, 0600",
                hint=f"change the secret if others could read it, then `chmod 600 {path}`",
            )
        data = file.read(limit + 1)
    try:
        text = data.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        text = ""
    if not text or len(data) > limit:
        raise ConfigError(f"{path} must hold one secret of 1 to {limit} bytes", hint="write it as plain text")
    return text
