"""Checkpoints of a run: a directory each, complete or not there, with a manifest that proves it.

Owns ``checkpoints/step-N/`` and its ``manifest.json``. Refuses to look inside the payload: serialising
is torch's business, and reading a stranger's checkpoint would be running it (SEC-12); refuses symlinks.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct

from hpcpools import atomic, formats
from hpcpools.errors import HpcpoolsError, PermissionsError, UsageError
from hpcpools.runs.directory import check_owned

_NAME = re.compile(r"step-(\d{1,15})")
MANIFEST = "manifest.json"
PINNED = ".pinned"
Heed = Callable[[int], None]  # hears how many more bytes were read


class Checkpoint(Struct, frozen=True):
    """A complete checkpoint. ``at`` is epoch seconds, ``size`` bytes, ``pinned`` keeps it from pruning.

    ``seconds`` is how long it took to write, None for one older than that measurement.
    """

    path: Path
    step: int
    at: float
    size: int
    metrics: dict[str, float]
    files: dict[str, str]
    pinned: bool = False
    seconds: float | None = None

    def fault(self, heed: Heed = lambda _bytes: None) -> str:
        """Why this checkpoint must not be used, ``""`` if it is whole: reads and digests every file."""
        try:
            for _ in _entries(self.path):
                pass  # walking refuses symlinks and devices, also those that the manifest does not name
            for name, wanted in self.files.items():
                if sha256(self.path / name, heed) != wanted:
                    return f"{name} differs from its digest"
        except OSError as error:
            where = Path(error.filename or self.path).name
            return f"{where}: {error.strerror or error}"
        except UsageError as error:
            return error.message
        return ""

    def verify(self) -> bool:
        """True if every file is there with the digest of the manifest."""
        return not self.fault()


@contextlib.contextmanager
def writing(folder: Path, step: int, at: float, metrics: dict[str, float]) -> Iterator[Path]:
    """A private directory to write files into; on success it becomes ``step-N`` in one rename.

    Files are fsynced, hashed into the manifest, the manifest fsynced, the directory renamed, the parent
    fsynced: a kill at any instant leaves either the whole checkpoint or none. On an error it is removed.
    """
    began = time.monotonic()
    if not 0 <= step < 10**15:
        raise UsageError(f"step {step} is no step", hint="count from 0")
    final = at_step(folder, step)
    tmp = folder / f".step-{step:09d}.{secrets.token_hex(4)}.tmp"
    tmp.mkdir(mode=0o700)
    try:
        yield tmp
        files, size = _digest_and_sync(tmp)
        if not files:
            raise UsageError(f"checkpoint of step {step} is empty", hint="write its files into the folder")
        manifest = {"step": step, "at": at, "size": size, "metrics": metrics, "files": files}
        manifest |= {"format": formats.FORMAT, "seconds": round(time.monotonic() - began, 3)}
        atomic.write_json(tmp / MANIFEST, manifest)
        _put(tmp, final)
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)
        raise


def _digest_and_sync(tmp: Path) -> tuple[dict[str, str], int]:
    """Digests by name, and the bytes in total, of files that are durable now."""
    files = {}
    size = 0
    for path in _entries(tmp):
        name = str(path.relative_to(tmp))
        if name in (MANIFEST, PINNED):
            raise UsageError(f"{name} is the checkpoint's own", hint="choose another file name")
        if path.is_dir():
            atomic.fsync_directory(path)
        else:
            _fsync(path)
            files[name] = sha256(path)
            size += path.stat().st_size
    return files, size


def _put(tmp: Path, final: Path) -> None:
    """``tmp`` becomes ``final``; one of the same step is replaced, and hands on its pin."""
    old = None
    if final.exists():
        if (final / PINNED).exists():
            atomic.create_bytes(tmp / PINNED, b"")
        old = tmp.with_name(f"{tmp.stem}.old.tmp")
        final.rename(old)
    tmp.rename(final)
    atomic.fsync_directory(final.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def clear_unfinished(folder: Path) -> None:
    """Remove what a killed attempt left half-written. Only the attempt that holds the claim calls this."""
    for path in folder.iterdir():
        if not (path.name.startswith(".step-") and path.name.endswith(".tmp")) or path.is_symlink():
            continue
        final = folder / path.name.removeprefix(".").partition(".")[0]
        if path.name.endswith(".old.tmp") and not final.exists():
            path.rename(final)  # killed between the two renames of a replacement
        else:
            shutil.rmtree(path, ignore_errors=True)


def complete(folder: Path) -> list[Checkpoint]:
    """All complete checkpoints, oldest step first; anything else is passed over. Digests not checked."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if _NAME.fullmatch(path.name) and stat.S_ISDIR(path.lstat().st_mode):
            with contextlib.suppress(*_UNREADABLE):
                found.append(_read(path))
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def unreadable(folder: Path) -> list[Path]:
    """What is called like a checkpoint and is none: no manifest, a foreign owner, a symlink."""
    names = {found.path.name for found in complete(folder)}
    entries = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in entries if _NAME.fullmatch(path.name) and path.name not in names)


def at_step(folder: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` lies, if there is one."""
    return folder / f"step-{step:09d}"


def newest_valid(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose files match their digests; walks back over damaged ones."""
    return next((found for found in reversed(complete(folder)) if found.verify()), None)


def write_seconds(folder: Path) -> list[float]:
    """How long each checkpoint that is still there took to write, oldest step first."""
    return [found.seconds for found in complete(folder) if found.seconds is not None]


def pin(folder: Path, step: int, pinned: bool) -> None:
    """Keep a checkpoint from ever being pruned, or no longer. Raises HpcpoolsError if there is none."""
    mark = next((found.path / PINNED for found in complete(folder) if found.step == step), None)
    if mark is None:
        raise HpcpoolsError(f"no checkpoint of step {step}", hint="`hpcpools checkpoints RUN` lists them")
    if pinned:
        atomic.create_bytes(mark, b"")
    else:
        mark.unlink(missing_ok=True)


_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OSError, PermissionsError)


def _read(path: Path) -> Checkpoint:
    check_owned(path)
    if not stat.S_ISREG((path / MANIFEST).lstat().st_mode):
        raise ValueError("the manifest is no file")
    manifest = atomic.read_json(path / MANIFEST)
    if not isinstance(manifest, dict):
        raise ValueError("no manifest")
    # Never passed over: a training that went on from an older one would lose what a newer version saved.
    formats.check(manifest.get("format", formats.FORMAT), f"checkpoint {path.parent.parent.name}/{path.name}")
    files = {str(name): str(value) for name, value in manifest["files"].items()}
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in files):
        raise ValueError("manifest names a file outside")
    step = int(manifest["step"])
    if path != at_step(path.parent, step):
        raise ValueError("manifest of another step")
    seconds = manifest.get("seconds")
    return Checkpoint(
        path=path,
        step=step,
        at=float(manifest["at"]),
        size=int(manifest["size"]),
        metrics={str(name): float(value) for name, value in manifest["metrics"].items()},
        files=files,
        pinned=(path / PINNED).exists(),
        seconds=None if seconds is None else float(seconds),
    )


def _entries(folder: Path) -> Iterator[Path]:
    """Files and folders below, by name. Raises UsageError at the first that is neither."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        path = Path(entry.path)
        if entry.is_symlink():
            raise UsageError(f"checkpoint holds a symlink: {path.name}", hint="write plain files")
        if entry.is_dir(follow_symlinks=False):
            yield path
            yield from _entries(path)
        elif entry.is_file(follow_symlinks=False):
            yield path
        else:
            raise UsageError(f"checkpoint holds a special file: {path.name}", hint="write plain files")


def blocks(path: Path) -> Iterator[bytes]:
    """The bytes of a plain file, a MiB at a time; OSError (ELOOP) for a symlink."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(fd, "rb") as file:
        while block := file.read(1 << 20):
            yield block


def sha256(path: Path, heed: Heed = lambda _bytes: None) -> str:
    """SHA-256 of a file in hex; ``heed`` hears each block's size."""
    digest = hashlib.sha256()
    for block in blocks(path):
        digest.update(block)
        heed(len(block))
    return digest.hexdigest()


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
