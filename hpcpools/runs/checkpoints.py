"""Checkpoints of a run: a directory each, complete or not there, with a manifest that proves it.

Owns ``checkpoints/step-N/`` and its ``manifest.json``. Refuses to look inside the payload: serialising
is torch's business, and reading a stranger's checkpoint would be running it (SEC-12).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpcpools import atomic
from hpcpools.errors import HpcpoolsError, UsageError

_NAME = re.compile(r"step-(\d{1,15})")
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint. ``at`` is epoch seconds, ``size`` bytes, ``pinned`` keeps it from pruning."""

    path: Path
    step: int
    at: float
    size: int
    metrics: dict[str, float]
    files: dict[str, str]
    pinned: bool = False

    def verify(self) -> bool:
        """True if every file is there with the digest of the manifest."""
        return all(_sha256(self.path / name) == wanted for name, wanted in self.files.items())


@contextlib.contextmanager
def writing(folder: Path, step: int, at: float, metrics: dict[str, float]) -> Iterator[Path]:
    """A private directory to write files into; on success it becomes ``step-N`` in one rename.

    Files are fsynced, hashed into the manifest, the manifest fsynced, the directory renamed, the parent
    fsynced: a kill at any instant leaves either the whole checkpoint or none. On an error it is removed.
    """
    final = folder / f"step-{step:09d}"
    tmp = folder / f".step-{step:09d}.{secrets.token_hex(4)}.tmp"
    tmp.mkdir(mode=0o700)
    try:
        yield tmp
        files = {}
        size = 0
        for path in sorted(tmp.rglob("*")):
            if path.is_symlink():
                raise UsageError(f"checkpoint holds a symlink: {path.name}", hint="write plain files")
            if path.is_file():
                _fsync(path)
                files[str(path.relative_to(tmp))] = _sha256(path)
                size += path.stat().st_size
            else:
                atomic.fsync_directory(path)
        if not files:
            raise UsageError(f"checkpoint of step {step} is empty", hint="write its files into the folder")
        manifest = {"format": 1, "step": step, "at": at, "size": size, "metrics": metrics, "files": files}
        atomic.write_json(tmp / MANIFEST, manifest)
        if final.exists():  # the same step again, after a resume: the newer one replaces it
            old = folder / f".step-{step:09d}.{secrets.token_hex(4)}.old.tmp"
            final.rename(old)
            tmp.rename(final)
            shutil.rmtree(old)
        else:
            tmp.rename(final)
        atomic.fsync_directory(folder)
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)
        raise


def clear_unfinished(folder: Path) -> None:
    """Remove what a killed attempt left half-written. Only the attempt that holds the claim calls this."""
    for path in folder.iterdir():
        if path.name.startswith(".step-") and path.name.endswith(".tmp") and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


def complete(folder: Path) -> list[Checkpoint]:
    """All complete checkpoints, oldest step first; anything else is passed over. Digests not checked."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if _NAME.fullmatch(path.name) and stat.S_ISDIR(path.lstat().st_mode):
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, OSError):
                found.append(_read(path))
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def newest_valid(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose files match their digests; walks back over damaged ones."""
    return next((found for found in reversed(complete(folder)) if found.verify()), None)


def pin(folder: Path, step: int, pinned: bool) -> None:
    """Keep a checkpoint from ever being pruned, or no longer. Raises HpcpoolsError if there is none."""
    path = folder / f"step-{step:09d}"
    if not (path / MANIFEST).is_file():
        raise HpcpoolsError(f"no checkpoint of step {step}", hint="`hpcpools show RUN` lists them")
    mark = path / ".pinned"
    if pinned:
        atomic.create_bytes(mark, b"")
    else:
        mark.unlink(missing_ok=True)


def _read(path: Path) -> Checkpoint:
    manifest = atomic.read_json(path / MANIFEST)
    if not isinstance(manifest, dict):
        raise ValueError("no manifest")
    files = {str(name): str(value) for name, value in manifest["files"].items()}
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in files):
        raise ValueError("manifest names a file outside")
    return Checkpoint(
        path=path,
        step=int(manifest["step"]),
        at=float(manifest["at"]),
        size=int(manifest["size"]),
        metrics={str(name): float(value) for name, value in manifest["metrics"].items()},
        files=files,
        pinned=(path / ".pinned").exists(),
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return ""
    with os.fdopen(fd, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
