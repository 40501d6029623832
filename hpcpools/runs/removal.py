"""Removing a directory below a root: out of sight in one rename, then away.

Owns how anything of a root is deleted. Never follows a symlink, and never leaves half of it under its name.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import stat
from pathlib import Path

_GRAVE = re.compile(r"\..+\.[0-9a-f]{8}\.gone\.tmp")


def remove(path: Path) -> None:
    """Remove a directory with all that is in it, read-only or not; what is no directory stays."""
    if not stat.S_ISDIR(path.lstat().st_mode):
        return
    grave = path.with_name(f".{path.name}.{secrets.token_hex(4)}.gone.tmp")
    path.rename(grave)
    bury(grave)


def is_grave(name: str) -> bool:
    """True for what a removal that died has left."""
    return _GRAVE.fullmatch(name) is not None


def bury(grave: Path) -> None:
    """The slow part of a removal; harmless to repeat."""
    with contextlib.suppress(FileNotFoundError):
        try:
            shutil.rmtree(grave)  # by descriptors: a symlink in it is removed, not followed
        except PermissionError:  # a code snapshot's directories are read-only
            for _folder, _names, _files, fd in os.fwalk(grave, follow_symlinks=False):
                os.fchmod(fd, 0o700)
            shutil.rmtree(grave)
