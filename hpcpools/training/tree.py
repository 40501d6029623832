"""The live tree that a training's code comes from: which of its files belong to a snapshot.

Owns the choice of files: git's where git is, else the declared modules, or the whole folder on demand.
Refuses what is over the cap, and never takes runs, virtual environments or our own runtime files.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hpcpools.config import Config
from hpcpools.errors import RefusedError
from hpcpools.runs.code import CACHE, relative
from hpcpools.runs.token import is_token
from hpcpools.textsafe import one_line
from hpcpools.training import git
from hpcpools.training.git import WorkTree

MAX_FILES = 20_000
IMPORTABLE = (".py", ".so")
_NEVER = {".git", ".venv", CACHE}


@dataclass(frozen=True)
class LiveTree:
    """A folder and the files of it that count, relative to it. ``git`` None: no git work tree."""

    top: Path
    files: tuple[str, ...]
    untracked: bool = False
    git: WorkTree | None = None
    notes: tuple[str, ...] = ()


def find(config: Config, folder: Path, *, modules: bool, everything: bool) -> LiveTree | None:
    """The tree around ``folder``; None if nothing there is to be kept.

    Outside git, ``modules`` takes the declared ones, else ``everything`` takes the whole folder. Raises
    RefusedError over the cap of the configuration, HpcpoolsError if git does not answer.
    """
    found = git.work_tree(folder)
    untracked: set[str] = set()
    if found is not None:
        top = found.top
        tracked, untracked = git.files(top)
        names: Iterable[str] = tracked | untracked
    elif modules or everything:
        top = folder
        names = _declared(config, top) if modules else _walk(top, top)
    else:
        return None
    kept, notes = _keep(config, top, _beside(top, set(names)))
    if not kept:
        return None
    _check_size(config, top, kept)
    new = bool(untracked.intersection(kept))
    return LiveTree(top, tuple(sorted(kept)), new, found, tuple(notes))


def _declared(config: Config, top: Path) -> Iterator[str]:
    """The files of the configured modules: a module's file, or the whole of its top package."""
    for part in config.python_path:
        inside = relative(part, str(top))
        if inside is None:
            continue
        for name in {module.partition(".")[0] for module in config.project.modules}:
            place = top / inside / name
            if place.is_dir():
                yield from _walk(top, place)
            elif place.with_suffix(".py").is_file():
                yield os.path.relpath(place.with_suffix(".py"), top)


def _walk(top: Path, place: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(place):
        folders[:] = [name for name in folders if name not in _NEVER]
        yield from (os.path.relpath(Path(folder, name), top) for name in names)
        yield from (
            os.path.relpath(Path(folder, name), top) for name in folders if Path(folder, name).is_symlink()
        )


def _beside(top: Path, names: set[str]) -> set[str]:
    """``names`` and what Python may import from the same folders although git ignores it.

    A generated ``_version.py`` or a compiled extension is part of the package that is tracked around it.
    """
    more = set()
    for folder in {Path(name).parent for name in names if name.endswith(".py")}:
        try:
            found = os.listdir(top / folder)
        except OSError:
            continue
        more |= {str(folder / name) for name in found if name.endswith(IMPORTABLE)}
    return names | more


def _keep(config: Config, top: Path, names: set[str]) -> tuple[dict[str, int], list[str]]:
    """{file: bytes} without what never belongs to a snapshot, and what is to be said about the rest."""
    ours = [config.root, config.runtime_dir, config.machine_dir]
    inside = {relative(str(folder), str(top)) or "." for folder in ours}
    inside |= {str(Path(name).parent) for name in names if Path(name).name == "pyvenv.cfg"}
    inside.discard(".")
    rooted = relative(str(config.root), str(top)) == "."  # the runs lie in the project folder itself
    kept: dict[str, int] = {}
    notes = []
    for name in sorted(names):
        if rooted and (name.startswith(".") or is_token(name.partition("/")[0])):
            continue
        parents = {str(parent) for parent in Path(name).parents} | {name}
        if parents & inside or _NEVER.intersection(Path(name).parts):
            continue
        try:
            facts = (top / name).lstat()
        except OSError:
            continue  # deleted, and git does not know yet
        if stat.S_ISREG(facts.st_mode):
            kept[name] = facts.st_size
        elif stat.S_ISLNK(facts.st_mode):
            if link(top, name) is None:
                notes.append(f"not in the code snapshot: {one_line(name)} is a link out of {top}")
            else:
                kept[name] = 0
    return kept, notes


def link(top: Path, name: str) -> str | None:
    """The target of a symlink, relative to it; None if it leads out of the tree."""
    place = top / name
    target = os.path.normpath(place.parent / place.readlink())
    if not all(Path(end).is_relative_to(top) for end in (target, os.path.realpath(place))):
        return None
    return os.path.relpath(target, place.parent)


def _check_size(config: Config, top: Path, files: dict[str, int]) -> None:
    total = sum(files.values())
    hint = "list data in .gitignore, raise [snapshot] max_mb, or use --no-snapshot: then later edits count"
    if total > config.snapshot.max_mb * 2**20:
        largest = sorted(files, key=lambda name: files[name], reverse=True)[:3]
        shown = ", ".join(f"{one_line(name)} ({files[name] / 2**20:.1f} MiB)" for name in largest)
        raise RefusedError(
            f"the code in {top} is {total / 2**20:.1f} MiB, over the snapshot's "
            f"{config.snapshot.max_mb} MiB; largest: {shown}",
            hint=hint,
        )
    if len(files) > MAX_FILES:
        raise RefusedError(f"{top} has {len(files)} files for the snapshot, at most {MAX_FILES}", hint=hint)
