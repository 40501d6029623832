"""The code snapshot of a submission: what runs is what was there when it was submitted.

Owns the way from a live tree to ``<root>/.code/<digest>`` and the request that uses it. Removing old
snapshots is not its business: ``maintenance/gc.py`` does, once no run refers to them.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from hpcpools import atomic
from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError
from hpcpools.runs import code
from hpcpools.runs.code import Entry
from hpcpools.runs.directory import check_owned
from hpcpools.runs.request import Code, Request
from hpcpools.training import asmodule, git, tree
from hpcpools.training.tree import LiveTree

Note = Callable[[str], None]
LAUNCHERS = ("torchrun", "accelerate", "deepspeed", "ipython", "uv")
MAX_PATCH = 5 * 2**20  # bytes; a larger diff is not kept beside the snapshot


def _silent(_text: str) -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class Survey:
    """A live tree with the digest of every file: all that is known before anything is written."""

    tree: LiveTree
    entries: tuple[Entry, ...]
    place: Path  # where the snapshot lies, or will
    code: Code
    patch: bytes = b""
    folders: frozenset[str] = field(default_factory=frozenset)

    def twin(self, path: str | Path) -> str | None:
        """Where a file or folder of the live tree lies in the snapshot; None if it is not in there."""
        inside = code.relative(str(path), str(self.tree.top))
        known = inside is not None and (inside in self.folders or inside in self.tree.files)
        return os.path.normpath(self.place / inside) if known and inside is not None else None


def freeze(
    config: Config, requests: Sequence[Request], wanted: bool | None = None, note: Note = _silent
) -> list[Request]:
    """The requests, all of one project folder, made to run a snapshot of it: one for all of them.

    ``wanted`` None: as the configuration says. Raises RefusedError over the cap.
    """
    taken = survey(config, requests[0], wanted, note) if requests else None
    store(config, taken)
    return [use(request, taken) for request in requests]


def survey(config: Config, request: Request, wanted: bool | None, note: Note = _silent) -> Survey | None:
    """Read what the request's code is now; None if it runs the live files. Writes nothing.

    Raises RefusedError over the cap, HpcpoolsError if git or a file cannot be read.
    """
    if wanted is False or (wanted is None and not config.snapshot.enabled):
        return None
    found = tree.find(config, Path(request.workdir), modules=bool(request.target), everything=bool(wanted))
    if found is None:
        return None
    taken = _read(config, found)
    if request.command and _frozen_command(request, taken) is None and not wanted:
        note("the live files will run: the command names no Python file of the project (see --snapshot)")
        return None
    for text in found.notes:
        note(text)
    if request.target and (outside := _outside(request, taken)):
        note(f"not in the code snapshot: {outside} lies outside {found.top}")
    return taken


def _read(config: Config, found: LiveTree) -> Survey:
    try:
        entries = tuple(_entry(found.top, name) for name in found.files)
        size = sum((found.top / name).lstat().st_size for name in found.files)
    except OSError as error:
        raise HpcpoolsError(
            f"cannot read the code: {error.filename}: {error.strerror}", hint="or use --no-snapshot"
        ) from None
    patch = git.changes(found.git) if found.git else b""
    digest = code.digest(entries)
    facts = Code(
        digest=digest,
        source=str(found.top),
        files=len(entries),
        size=size,
        commit=found.git.commit if found.git else "",
        branch=found.git.branch if found.git else "",
        dirty=bool(patch) or found.untracked,
    )
    folders = frozenset(str(parent) for name in found.files for parent in Path(name).parents)
    return Survey(found, entries, code.folder(config.root, digest), facts, patch, folders)


def _entry(top: Path, name: str) -> Entry:
    """As it will lie in the snapshot: links are relative there."""
    found = code.entry(top, name)
    return Entry(name, "link", tree.link(top, name) or "") if found.kind == "link" else found


def use(request: Request, taken: Survey | None) -> Request:
    """The request made to run the snapshot. The working directory stays the live one (data, outputs).

    A declared training is imported from the snapshot. Of a command, the Python file or module that it
    starts is the snapshot's; a command that starts none runs inside the snapshot.
    """
    if taken is None:
        return request
    if request.target:
        folders = [*filter(None, [_import_root(request)]), *request.python_path]
        twins = [twin for folder in folders if (twin := taken.twin(folder))]
        return replace(request, code=taken.code, python_path=tuple(dict.fromkeys([*twins, *folders])))
    command = _frozen_command(request, taken)
    if command is not None:
        return replace(request, code=taken.code, command=command)
    program = taken.twin(request.command[0]) or request.command[0]
    workdir = taken.twin(request.workdir) or str(taken.place)
    return replace(request, code=taken.code, command=(program, *request.command[1:]), workdir=workdir)


def _frozen_command(request: Request, taken: Survey) -> tuple[str, ...] | None:
    """The command with its Python file or module taken from the snapshot; None if it names none there."""
    command, here = request.command, Path(request.workdir)
    python = next((i for i, word in enumerate(command) if _runs_python(word)), None)
    at = None if python is None else _module_word(command, python)
    if at is not None:
        path = here / command[at].replace(".", "/")
        folder = taken.twin(here)
        if folder and (taken.twin(f"{path}.py") or taken.twin(path / "__main__.py")):
            return (*command[: at - 1], str(asmodule.__file__), folder, *command[at:])
    first, last = (0, 1) if python is None else (python + 1, len(command))
    for index in range(first, last):
        twin = taken.twin(here / command[index]) if command[index].endswith(".py") else None
        if twin is not None:
            return (*command[:index], twin, *command[index + 1 :])
    return None


def _runs_python(word: str) -> bool:
    """True for an interpreter, and for what starts a script given to it as an interpreter does."""
    name = Path(word).name
    return name.startswith("python") or name in LAUNCHERS


def _module_word(command: tuple[str, ...], python: int) -> int | None:
    """Where the module's name stands in ``python [flags] -m module``; None if no module is started."""
    if Path(command[python]).name in LAUNCHERS:
        return None
    for index in range(python + 1, len(command) - 1):
        if command[index] == "-m":
            return index + 1
        if not command[index].startswith("-") and command[index - 1] not in ("-W", "-X"):
            return None
    return None


def _module_file(request: Request) -> Path | None:
    """Where the declared function's module was imported from, here."""
    module = sys.modules.get(request.target.partition(":")[0])
    file = getattr(module, "__file__", None)
    return Path(file) if file else None


def _import_root(request: Request) -> str:
    """The folder that the declared function's module is found in; also when it is an editable install."""
    file = _module_file(request)
    if file is None:
        return ""
    depth = request.target.partition(":")[0].count(".") + (file.name == "__init__.py")
    return str(file.parents[depth])


def _outside(request: Request, taken: Survey) -> str:
    """The module's file if it is neither in the snapshot nor installed."""
    file = _module_file(request)
    if file is None or taken.twin(file) or file.is_relative_to(sys.prefix):
        return ""
    return str(file)


def store(config: Config, taken: Survey | None) -> None:
    """Write the snapshot unless it is there already, whole. Raises HpcpoolsError if files keep changing."""
    if taken is None:
        return
    try:
        parent = code.store(config.root)
        for folder in (config.root, parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_owned(folder)
        if taken.place.exists() and not code.intact(config.root, taken.code.digest):
            taken.place.rename(parent / f".damaged.{taken.code.digest}.{secrets.token_hex(4)}")
        if taken.place.exists():
            os.utime(taken.place)  # in use again: `gc` leaves it alone while the run is being submitted
        else:
            _write(taken, parent)
        if 0 < len(taken.patch) <= MAX_PATCH:
            atomic.create_bytes(parent / patch_name(taken.code), taken.patch, mode=0o400)
    except OSError as error:
        raise HpcpoolsError(
            f"cannot write the code snapshot: {error.filename}: {error.strerror}",
            hint="check space and quota there, or use --no-snapshot",
        ) from None


def patch_name(facts: Code) -> str:
    """The file beside the snapshot that holds ``git diff HEAD``; both digests determine its content."""
    return f"{facts.digest}.{facts.commit[:12]}.patch"


def _write(taken: Survey, parent: Path) -> None:
    """Copy into a temporary directory, compare, rename; then nobody writes there any more."""
    tmp = parent / f".{taken.code.digest}.{secrets.token_hex(4)}.tmp"
    try:
        tmp.mkdir(mode=0o700)
        for item in taken.entries:
            _copy(taken.tree.top, item, tmp / item.path)
        if code.digest(code.scan(tmp)) != taken.code.digest:
            raise HpcpoolsError(
                f"files in {taken.tree.top} changed while they were copied", hint="submit again"
            )
        try:
            tmp.rename(taken.place)
        except OSError:
            if not taken.place.is_dir():  # else somebody was quicker with the same content
                raise
            return
        for folder, _folders, _names in os.walk(taken.place):
            Path(folder).chmod(0o500)
        atomic.fsync_directory(parent)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def _copy(top: Path, item: Entry, target: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if item.kind == "link":
        target.symlink_to(item.content)
        return
    source = os.open(top / item.path, os.O_RDONLY | os.O_NOFOLLOW)
    mode = 0o500 if item.kind == "exec" else 0o400
    with os.fdopen(source, "rb") as reader:
        sink = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with os.fdopen(sink, "wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
