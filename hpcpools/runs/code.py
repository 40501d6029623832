"""A code snapshot: a directory of files named by the digest of what is in it, shared by all its runs.

Owns ``<root>/.code/<digest>/``: its name, its digest, its verification. Knows nothing of git or projects.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hpcpools.errors import HpcpoolsError
from hpcpools.runs.directory import check_owned

# Python, numba and others keep what they compiled beside the source; it follows from the source.
CACHE = "__pycache__"
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, order=True)
class Entry:
    """One file: ``kind`` is ``file``, ``exec``, ``link`` or ``other``; ``content`` a SHA-256 or the link."""

    path: str
    kind: str
    content: str


def store(root: Path) -> Path:
    """The folder of all snapshots of a root."""
    return root / ".code"


def folder(root: Path, name: str) -> Path:
    """The directory of the snapshot whose digest is ``name``. Raises HpcpoolsError if it is no digest."""
    if not _DIGEST.fullmatch(name):
        raise HpcpoolsError("the run names no valid code snapshot", hint="run.json is damaged; submit again")
    return store(root) / name


def digest(entries: Iterable[Entry]) -> str:
    """SHA-256 over path, kind and content of all files; times and owners do not count."""
    total = hashlib.sha256()
    for entry in sorted(entries):
        for part in (entry.path, entry.kind, entry.content):
            total.update(os.fsencode(part) + b"\0")
    return total.hexdigest()


def intact(root: Path, name: str) -> bool:
    """True if the snapshot is there, ours alone, and every byte is what its name says."""
    place = folder(root, name)
    try:
        check_owned(store(root))
        check_owned(place)
        return digest(scan(place)) == name
    except (OSError, HpcpoolsError):
        return False


def scan(place: Path) -> Iterator[Entry]:
    """Every file below ``place``, links not followed, compiled caches passed over."""
    waiting = [place]
    while waiting:
        with os.scandir(waiting.pop()) as found:
            for item in found:
                if not item.is_dir(follow_symlinks=False):
                    yield entry(place, os.path.relpath(item.path, place))
                elif item.name != CACHE:
                    waiting.append(Path(item.path))


def entry(place: Path, path: str) -> Entry:
    """One file of ``place`` as it is now. Raises OSError if it is gone."""
    full = place / path
    mode = full.lstat().st_mode
    if stat.S_ISLNK(mode):
        return Entry(path, "link", str(full.readlink()))
    if not stat.S_ISREG(mode):
        return Entry(path, "other", "")
    return Entry(path, "exec" if mode & 0o100 else "file", _sha256(full))


def twin(path: str, source: str, snapshot: Path) -> Path | None:
    """Where ``path`` of the live tree lies in the snapshot; None if it is outside or not in there."""
    inside = relative(path, source)
    if inside is None:
        return None
    found = snapshot / inside
    return found if found.exists() else None


def relative(path: str, source: str) -> str | None:
    """``path`` relative to the tree ``source``; None if it lies outside."""
    for form in (Path(os.path.normpath(path)), Path(os.path.realpath(path))):
        if form.is_relative_to(source):
            return str(form.relative_to(source))
    return None


def _sha256(path: Path) -> str:
    total = hashlib.sha256()
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()
