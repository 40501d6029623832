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

from hpcpools import atomic
from hpcpools.errors import NotFoundError
from hpcpools.runs.directory import RunDirectory, check_owned
from hpcpools.runs.states import RunState
from hpcpools.runs.view import read_view

_FINAL = frozenset(state.value for state in RunState if state.is_final)
_GRAVE = re.compile(r"\..+\.[0-9a-f]{8}\.gone\.tmp")


def remove(path: Path) -> None:
    """Remove a directory with all that is in it, read-only or not; what is no directory stays."""
    if not stat.S_ISDIR(path.lstat().st_mode):
        return
    grave = path.with_name(f".{path.name}.{secrets.token_hex(4)}.gone.tmp")
    path.rename(grave)
    bury(grave)


def remove_run(run: RunDirectory, *, dry_run: bool = False) -> bool:
    """Remove a run with its marks; False, and nothing removed, if it is not over. Raises HpcpoolsError."""
    check_owned(run.path)
    with contextlib.suppress(NotFoundError):  # its creation died: there was never a run
        if run.is_live() or not _is_over(run):
            return False  # somebody has just sent it again
    if not dry_run:
        remove(run.path)
        run.ended_mark.unlink(missing_ok=True)
        (run.root / ".evaluations" / run.token).unlink(missing_ok=True)
    return True


def _is_over(run: RunDirectory) -> bool:
    """As the view of the run tells; nearly always the last event does, at a third of the cost."""
    run.request()  # it is ours, whole, and of no newer version
    last, number = next(atomic.newest_lines(run.events_file), {}), run.last_submission()
    if last.get("state") in _FINAL and last.get("of", number) == number and isinstance(last.get("at"), float):
        return True
    return read_view(run).state.is_final


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
