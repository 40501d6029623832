"""A checkpoint carried out of its run: whole and verified at its destination, or not there at all.

Owns the copy. Refuses to overwrite anything, to follow a symlink, and to copy a damaged checkpoint.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from pathlib import Path

from hpcpools import atomic
from hpcpools.errors import HpcpoolsError, NotFoundError, RefusedError, UsageError
from hpcpools.runs import checkpoints
from hpcpools.runs.checkpoints import MANIFEST, Checkpoint, Heed


def choose(folder: Path, step: int | None) -> Checkpoint:
    """The checkpoint of ``step``, or the newest that verifies. Raises NotFoundError or RefusedError."""
    if step is None:
        newest = checkpoints.newest_valid(folder)
        if newest is None:
            raise NotFoundError("the run has no valid checkpoint", hint="`hpcpools checkpoints RUN --verify`")
        return newest
    for found in checkpoints.complete(folder):
        if found.step == step:
            if fault := found.fault():
                raise RefusedError(f"the checkpoint of step {step} is damaged: {fault}", hint="name another")
            return found
    raise NotFoundError(f"no checkpoint of step {step}", hint="`hpcpools checkpoints RUN` lists them")


def check_destination(dest: Path) -> None:
    """Raise UsageError unless ``dest`` is free and its parent is a directory."""
    if os.path.lexists(dest):
        raise UsageError(f"{dest} exists", hint="name a folder that is not there yet")
    if not dest.parent.is_dir():
        raise UsageError(f"{dest.parent} is no directory", hint="make it first")


def copy(found: Checkpoint, dest: Path, heed: Heed = lambda _bytes: None) -> None:
    """Copy the files of the manifest, and the manifest, to the new folder ``dest`` in one rename.

    Every byte is checked on its way; ``heed`` hears the size of each block. The pin stays behind.
    Raises UsageError, RefusedError, or HpcpoolsError for what the file system says.
    """
    check_destination(dest)
    tmp = dest.with_name(f".{dest.name}.{secrets.token_hex(4)}.tmp")
    try:
        tmp.mkdir(mode=0o700)
        for name, wanted in found.files.items():
            (tmp / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if _copy_file(found.path / name, tmp / name, heed) != wanted:
                raise RefusedError(f"{name} changed while it was copied", hint="try again")
        _copy_file(found.path / MANIFEST, tmp / MANIFEST, heed)
        for folder in (tmp, *(path for path in tmp.rglob("*") if path.is_dir())):
            atomic.fsync_directory(folder)
        tmp.rename(dest)  # fails on whatever appeared there since, but for an empty folder
        atomic.fsync_directory(dest.parent)
    except OSError as error:
        raise HpcpoolsError(
            f"cannot copy step {found.step} to {dest}: {error.strerror or error}",
            hint="nothing is left there",
        ) from error
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def _copy_file(source: Path, target: Path, heed: Heed) -> str:
    """Copy, fsync; the digest of what was written."""
    digest = hashlib.sha256()
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as file:
        for block in checkpoints.blocks(source):
            digest.update(block)
            file.write(block)
            heed(len(block))
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()
