"""A pipeline's files: what was asked, what people wished since, and each try of each stage.

Owns every path below ``<root>/.pipelines/``. Every file is created whole, once, and never changed, so
any number of processes may read and advance a pipeline at the same time.

    <root>/.pipelines/.live/<id>             a mark per pipeline that is not final
    <root>/.pipelines/<id>/pipeline.json     the definition
                           wish.N.json       cancel, or retry of which stages
                           STAGE.TRY.submit.json  what is given to the pool: fixed before it is given
                           STAGE.TRY.done.json    how it ended
                           KEY.claim.N.json, KEY.sent.json
                                             who hands a run (its token) or a sweep over, that the pool has it
                           TOKEN.end.json, TOKEN.TRY.end.json
                                             how a run ended; the latter of one that a later try sent again
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from hpcpools import atomic, formats
from hpcpools.errors import HpcpoolsError, NotFoundError
from hpcpools.pipeline.definition import Definition
from hpcpools.runs.directory import check_owned
from hpcpools.runs.token import new_token
from hpcpools.textsafe import one_line
from hpcpools.training import nodeenv

FOREIGN_CLAIM = 900.0  # seconds until a claim of another machine counts as abandoned
_ID = re.compile(r"hq-[0-9a-hjkmnp-tv-z]{26}")


class Header(Struct, frozen=True, forbid_unknown_fields=True):
    """The content of ``pipeline.json``; ``pools`` says for each stage training or short."""

    id: str
    created: float
    file: str
    pools: dict[str, str]
    definition: Definition
    format: int = formats.FORMAT


class PipelineRecord:
    """The files of one pipeline; holds no state of its own."""

    def __init__(self, root: Path, name: str) -> None:
        if not _ID.fullmatch(name):
            raise NotFoundError(f"{one_line(name)!r} is no pipeline", hint="`hpcpools pipeline status`")
        self.root = root
        self.id = name
        self.path = root / ".pipelines" / name
        self._live = root / ".pipelines" / ".live" / name

    def header(self) -> Header:
        """What was asked. Raises NotFoundError, PermissionsError or HpcpoolsError (damaged)."""
        file = self.path / "pipeline.json"
        try:
            check_owned(self.path)
            data = file.read_bytes()
            formats.check_bytes(data, f"pipeline {self.id}")
            return msgspec.json.decode(data, type=Header)
        except FileNotFoundError:
            raise NotFoundError(f"no pipeline {self.id}", hint="`hpcpools pipeline status`") from None
        except msgspec.MsgspecError as error:
            raise HpcpoolsError(f"{file} is damaged: {error}", hint="define the pipeline anew") from None

    def submit_file(self, stage: str, number: int) -> Path:
        """What a try of a stage gives to its pool."""
        return self.path / f"{stage}.{number}.submit.json"

    def done_file(self, stage: str, number: int) -> Path:
        """How a try of a stage ended."""
        return self.path / f"{stage}.{number}.done.json"

    def job_id(self, stage: str, number: int) -> str:
        """The fixed id of a try's short job."""
        return f"{self.id}-{stage}-{number}"

    def wishes(self) -> list[dict[str, Any]]:
        """What people asked for since the start, oldest first."""
        found: list[dict[str, Any]] = []
        while (wish := atomic.read_json(self.path / f"wish.{len(found)}.json")) is not None:
            found.append(wish)
        return found

    def wish(self, value: dict[str, Any]) -> None:
        """Write one down, after all others; the pipeline is live again."""
        while not atomic.create_json(self.path / f"wish.{len(self.wishes())}.json", value):
            pass
        self.open()

    def is_live(self) -> bool:
        """True until it is known to be final."""
        return self._live.exists()

    def open(self) -> None:
        """Put it on the live list, if it is not there."""
        if not self.is_live():
            atomic.create_bytes(self._live, b"")

    def close(self) -> None:
        """Take it off the live list."""
        self._live.unlink(missing_ok=True)

    def claim(self, name: str) -> bool:
        """Take, or keep, the right to do ``name``; False while another living process has it."""
        me = {
            "host": socket.gethostname(),
            "boot": nodeenv.boot_id(),
            "pid": os.getpid(),
            "pid_start": nodeenv.process_start(os.getpid()),
        }
        while True:
            number, holder = self._newest_claim(name)
            if holder is not None and {**holder, **me} == holder:
                return True
            if holder is not None and not abandoned(holder, me, time.time()):
                return False
            file = self.path / f"{name}.claim.{number + 1}.json"
            if atomic.create_json(file, {**me, "at": time.time()}):
                return True

    def release(self, name: str) -> None:
        """Give the claim of this process back: another one may go on at once."""
        number, _ = self._newest_claim(name)
        atomic.create_json(self.path / f"{name}.claim.{number + 1}.json", {"released": True})

    def _newest_claim(self, name: str) -> tuple[int, dict[str, Any] | None]:
        prefix = f"{name}.claim."
        claims = [each[len(prefix) : -5] for each in os.listdir(self.path) if each.startswith(prefix)]
        number = max((int(each) for each in claims if each.isdecimal()), default=-1)
        return number, atomic.read_json(self.path / f"{prefix}{number}.json")


def abandoned(holder: dict[str, Any], me: dict[str, Any], now: float) -> bool:
    """True if a claim was given back, or its process is gone; of another machine, if the claim is old."""
    if holder.get("released"):
        return True
    if holder.get("host") != me["host"]:
        return now - float(holder.get("at", 0.0)) > FOREIGN_CLAIM
    if holder.get("boot") != me["boot"]:
        return True
    try:
        stat = Path(f"/proc/{int(holder['pid'])}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError, KeyError):
        return True
    return stat[0] in "ZX" or int(stat[19]) != holder.get("pid_start")  # a zombie does nothing more


def create(root: Path, definition: Definition, file: str, pools: dict[str, str]) -> PipelineRecord:
    """Make a pipeline durable; nothing is submitted yet. Raises HpcpoolsError if it cannot be written."""
    now = time.time()
    record = PipelineRecord(root, "hq-" + new_token(now).removeprefix("hp-"))
    header = Header(record.id, now, file, pools, definition)
    try:
        record._live.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (root, record.path.parent, record._live.parent):
            check_owned(folder)
        record.path.mkdir(mode=0o700)
        atomic.write_bytes(record.path / "pipeline.json", msgspec.json.encode(header))
        atomic.create_bytes(record._live, b"")
        atomic.fsync_directory(record.path.parent)
    except OSError as error:
        raise HpcpoolsError(
            f"cannot write the pipeline in {record.path}: {error.strerror or error}",
            hint="check space, quota and mode there; nothing was submitted",
        ) from error
    return record


def open_record(root: Path, name: str) -> PipelineRecord:
    """The pipeline called ``name``, or whose id starts so if only one does. Raises NotFoundError."""
    if not _ID.fullmatch(name) and name.startswith("hq-"):
        found = [each for each in ids(root) if each.startswith(name)]
        if len(found) > 1:
            raise NotFoundError(f"{one_line(name)!r} fits {len(found)} pipelines", hint="write more of it")
        name = found[0] if found else name
    record = PipelineRecord(root, name)
    record.header()
    return record


def ids(root: Path) -> list[str]:
    """All pipelines, newest first."""
    return sorted(_names(root / ".pipelines"), reverse=True)


def live_ids(root: Path) -> list[str]:
    """Those that are not final, oldest first."""
    return sorted(_names(root / ".pipelines" / ".live"))


def _names(folder: Path) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        yield from (name for name in os.listdir(folder) if _ID.fullmatch(name))
