"""The durable record of a sweep: its definition, its runs in order, and the arrays that carried them.

Owns ``<root>/.sweeps/``. Every file is written once: the definition before the first sbatch, an array
before its own, so that the node, and a look-up after a crash, find all they need.

    <root>/.sweeps/<id>.json           definition and ordered tokens
                   <id>/N.json         array N: index → run, submission, digest of its run.json
                        N.job.json     Slurm's id of it; N.look.json  the last look-up that told nothing
                        N.sbatch       the script that was sent; the launcher's own logs
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from hpcpools import atomic, formats
from hpcpools.errors import HpcpoolsError, NotFoundError, PermissionsError
from hpcpools.runs.directory import check_owned
from hpcpools.runs.request import digest
from hpcpools.runs.token import SWEEP_PATTERN
from hpcpools.textsafe import one_line


class Sampling(Struct, frozen=True, forbid_unknown_fields=True):
    """Random points: ``count`` draws from ``choose``, the same ones for the same ``seed``."""

    count: int
    seed: int = 0
    choose: dict[str, Any] = {}


class Definition(Struct, frozen=True, forbid_unknown_fields=True):
    """What was asked for: a target, or a command with ``{NAME}`` where an argument's value goes.

    ``max_parallel`` 0: as many at once as Slurm allows.
    """

    target: str = ""
    fixed: dict[str, Any] = {}
    grid: dict[str, list[Any]] = {}
    random: Sampling | None = None
    max_parallel: int = 0
    command: tuple[str, ...] = ()

    @property
    def what(self) -> str:
        """The target or the command line, for people."""
        return self.target or shlex.join(self.command)


class SweepFile(Struct, frozen=True, forbid_unknown_fields=True):
    """The content of ``<id>.json``; ``tokens`` in the order of the points."""

    id: str
    created: float
    definition: Definition
    tokens: tuple[str, ...]
    label: str = ""
    format: int = formats.FORMAT


class Element(Struct, frozen=True, forbid_unknown_fields=True):
    """What one index of an array starts."""

    token: str
    submission: int
    digest: str


class Array(Struct, frozen=True, forbid_unknown_fields=True):
    """One sbatch array; ``elements[i]`` is what index i starts, ``parallel`` of them at once."""

    sweep: str
    number: int
    at: float
    parallel: int
    elements: tuple[Element, ...]

    @property
    def key(self) -> str:
        """Name and comment of the array's jobs: one text for all elements."""
        return f"{self.sweep}.{self.number}"


class SweepDirectory(msgspec.Struct, frozen=True):
    """The files of one sweep; holds no state of its own."""

    root: Path
    id: str

    @property
    def file(self) -> Path:
        """Definition and tokens."""
        return self.root / ".sweeps" / f"{self.id}.json"

    @property
    def folder(self) -> Path:
        """Arrays, scripts, the launcher's logs."""
        return self.root / ".sweeps" / self.id

    def manifest(self, number: int) -> Path:
        """The file of array ``number``."""
        return self.folder / f"{number}.json"

    def script(self, number: int) -> Path:
        """The script that array ``number`` was sent as."""
        return self.folder / f"{number}.sbatch"

    def read(self) -> SweepFile:
        """Definition and tokens. Raises NotFoundError, PermissionsError or HpcpoolsError (damaged)."""
        try:
            return _read(self.file, SweepFile)
        except FileNotFoundError:
            raise NotFoundError(
                f"no sweep {self.id} in {self.root}", hint="`hpcpools sweeps` lists them"
            ) from None

    def array(self, number: int) -> Array | None:
        """Array ``number``; None if there is none. Raises PermissionsError, HpcpoolsError (damaged)."""
        try:
            return _read(self.manifest(number), Array)
        except FileNotFoundError:
            return None

    def numbers(self) -> list[int]:
        """The arrays' numbers, oldest first."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        return sorted(int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdecimal())

    def new_array(self, elements: Iterable[Element], parallel: int, at: float) -> Array:
        """Make the next array durable; whoever comes at the same moment gets another number."""
        chosen = tuple(elements)
        while True:
            number = max(self.numbers(), default=-1) + 1
            array = Array(self.id, number, at, parallel, chosen)
            if atomic.create_bytes(self.manifest(number), encode(array)):
                return array

    def array_of(self, token: str, submission: int) -> Array | None:
        """The array that carries submission ``submission`` of a run."""
        for number in reversed(self.numbers()):
            array = self.array(number)
            if array and any(one.token == token and one.submission == submission for one in array.elements):
                return array
        return None

    def looked(self, number: int, at: float) -> None:
        """Slurm was asked for array ``number``, and nobody could say."""
        atomic.write_json(self.folder / f"{number}.look.json", {"at": at})

    def last_look(self, number: int) -> float:
        """When that was, epoch seconds; 0.0 for never."""
        return float((atomic.read_json(self.folder / f"{number}.look.json") or {}).get("at", 0.0))

    def submitted(self, number: int, job_id: str, at: float) -> None:
        """Slurm acknowledged array ``number`` as ``job_id``."""
        atomic.write_json(self.folder / f"{number}.job.json", {"job_id": job_id, "at": at})

    def job_id(self, number: int) -> str:
        """Slurm's id of array ``number``; "" before the acknowledgement."""
        return str((atomic.read_json(self.folder / f"{number}.job.json") or {}).get("job_id", ""))


def create(root: Path, sweep: SweepFile) -> SweepDirectory:
    """Make the definition durable, fsynced. The root is there: its runs were created first."""
    place = SweepDirectory(root, sweep.id)
    home = root / ".sweeps"
    home.mkdir(mode=0o700, exist_ok=True)
    check_owned(home)
    place.folder.mkdir(mode=0o700, exist_ok=True)  # a creation may have died after this
    atomic.write_bytes(place.file, encode(sweep))
    return place


def discard(place: SweepDirectory) -> None:
    """Remove a sweep of which nothing reached Slurm."""
    import shutil

    place.file.unlink(missing_ok=True)
    shutil.rmtree(place.folder, ignore_errors=True)


def ids(root: Path) -> list[str]:
    """All sweeps' ids, newest first."""
    try:
        names = os.listdir(root / ".sweeps")
    except FileNotFoundError:
        return []
    return sorted(
        (n[:-5] for n in names if n.endswith(".json") and SWEEP_PATTERN.fullmatch(n[:-5])), reverse=True
    )


def open_sweep(root: Path, name: str) -> SweepDirectory:
    """The sweep called ``name``, or whose id starts so if only one does. Raises NotFoundError."""
    found = [one for one in ids(root) if one.startswith(name)] if name.startswith("hs-") else []
    if len(found) == 1:
        return SweepDirectory(root, found[0])
    if found:
        raise NotFoundError(f"{one_line(name)!r} fits {len(found)} sweeps", hint="write more of the id")
    raise NotFoundError(
        f"no sweep {one_line(name)!r} in {root}", hint="`hpcpools sweeps` lists them; a sweep starts with hs-"
    )


class Carried(Protocol):
    """A record of Slurm: queue.Job or accounting.AccountedJob."""

    @property
    def job_id(self) -> str:
        """``123_4`` for an element."""

    @property
    def token(self) -> str:
        """The text in the job's comment or name."""


C = TypeVar("C", bound=Carried)


def resolved(root: Path, jobs: Iterable[C]) -> Iterator[C]:
    """``jobs`` with the run's own token where one carries an array's; what we cannot place stays as it is."""
    known: dict[str, Array | None] = {}
    for job in jobs:
        sweep, dot, number = job.token.partition(".")
        index = job.job_id.partition("_")[2]
        if not dot or not index.isdecimal() or not SWEEP_PATTERN.fullmatch(sweep):
            yield job
            continue
        if job.token not in known:
            try:
                known[job.token] = SweepDirectory(root, sweep).array(int(number))
            except HpcpoolsError:
                known[job.token] = None
        array = known[job.token]
        if array is None or int(index) >= len(array.elements):
            yield job
        else:
            yield replace(job, token=array.elements[int(index)].token)  # type: ignore[type-var]


def encode(content: SweepFile | Array) -> bytes:
    """The bytes of a sweep's file."""
    return msgspec.json.encode(content) + b"\n"


def read_manifest(path: Path, wanted: str) -> Array:
    """On the node: the array, if its file is ours alone and the one that was submitted (SEC-6).

    Raises PermissionsError.
    """
    check_owned(path.parent)
    check_owned(path)
    if digest(path.read_bytes()) != wanted:
        raise PermissionsError(
            f"{path}: manifest hash mismatch", hint="it was changed after submission; submit again"
        )
    return _read(path, Array)


S = TypeVar("S", SweepFile, Array)


def _read(path: Path, kind: type[S]) -> S:
    check_owned(path)
    try:
        data = path.read_bytes()
        formats.check_bytes(data, path.name)
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise HpcpoolsError(f"{path} is damaged: {error}", hint="the sweep cannot be used") from None
