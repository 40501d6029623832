"""Files that are either the old version or the new one, also after kill -9 or a power cut.

Owns: write to a unique temporary name, fsync, rename or link, fsync the directory. Refuses: partial files.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from hpcpools.errors import PermissionsError


def fsync_directory(directory: Path) -> None:
    """Make the names in ``directory`` durable (a rename alone is not)."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _written(path: Path, data: bytes, mode: int) -> Iterator[Path]:
    """A fsynced temporary file beside ``path``; removed again unless the caller renamed it."""
    tmp = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        os.fchmod(fd, mode)  # whatever the umask: the services' hides all they write from others
        with os.fdopen(fd, "wb") as file:  # close() is checked: quota errors of NFS surface there
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield tmp
    finally:
        with contextlib.suppress(FileNotFoundError):
            tmp.unlink()


def write_bytes(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace ``path`` by ``data`` in one step."""
    with _written(path, data, mode) as tmp:
        tmp.replace(path)
    fsync_directory(path.parent)


def create_bytes(path: Path, data: bytes, *, mode: int = 0o600) -> bool:
    """Create ``path`` whole, once.

    Returns True for the one caller that created it, False if it was there. ``link(2)`` decides, which is
    atomic on NFS too and never shows a half-written file to the loser.
    """
    with _written(path, data, mode) as tmp:
        try:
            os.link(tmp, path, follow_symlinks=False)
        except FileExistsError:
            return False
    fsync_directory(path.parent)
    return True


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by ``value`` as JSON (UTF-8, one line)."""
    write_bytes(path, _encode(value))


def create_json(path: Path, value: Any) -> bool:
    """Like :func:`create_bytes`, for JSON."""
    return create_bytes(path, _encode(value))


def opened(path: Path) -> BinaryIO:
    """``path`` open for reading, without waiting for the writer of a pipe (SEC-10).

    Raises PermissionsError for a symlink: none of our writers makes one. OSError.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise PermissionsError(f"{path} is a symlink", hint="see who made it, then remove it") from None
        raise
    return os.fdopen(fd, "rb")


def read_bytes(path: Path) -> bytes:
    """All bytes of a file that is no symlink. Raises PermissionsError, OSError."""
    with opened(path) as file:
        return file.read()


def read_json(path: Path) -> Any | None:
    """The JSON value at ``path``; None if there is no such file.

    Raises ValueError if the file is not JSON: with atomic writers that means someone else wrote it.
    PermissionsError for a symlink.
    """
    try:
        data = read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return json.loads(data)


def append_line(path: Path, value: Any) -> None:
    """Append one JSON line with a single ``write`` (readers skip a torn last line)."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    try:
        os.write(fd, _encode(value))
    finally:
        os.close(fd)


def open_regular(path: Path) -> BinaryIO | None:
    """The file, open for reading; None if there is none, or it is a link or no regular file (SEC-10)."""
    try:
        file = opened(path)
    except (OSError, PermissionsError):
        return None
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    return None


def read_lines(path: Path, *, tail_bytes: int | None = None) -> list[dict[str, Any]]:
    """The JSON objects of a line file, torn or foreign lines left out.

    ``tail_bytes`` reads only the end of a long file.
    """
    return list(newest_lines(path, tail_bytes=tail_bytes))[::-1]


def newest_lines(path: Path, *, tail_bytes: int | None = None) -> Iterator[dict[str, Any]]:
    """As :func:`read_lines`, but the last one first: whoever needs no more parses no more."""
    try:
        with opened(path) as file:
            if tail_bytes is not None:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - tail_bytes))
            lines = file.read().split(b"\n")
    except (FileNotFoundError, NotADirectoryError):
        return
    for line in reversed(lines):
        if isinstance(value := _parsed(line), dict):
            yield value


def _parsed(line: bytes) -> Any:
    """None for what is no JSON. The quick parser refuses what the other one forgives, such as NaN."""
    import msgspec

    try:
        return msgspec.json.decode(line)
    except msgspec.MsgspecError:
        with contextlib.suppress(ValueError):
            return json.loads(line)
    return None


def _encode(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=True).encode() + b"\n"
