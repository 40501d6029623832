"""Reading a run's logs: bounded pages, regular files of our own only, one attempt at a time (SEC-10)."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

from hpcpools import atomic
from hpcpools.errors import NotFoundError
from hpcpools.runs import attempts
from hpcpools.runs.attempts import read_attempts
from hpcpools.runs.directory import RunDirectory
from hpcpools.textsafe import one_line
from hpcpools.training.executors import default_log

PAGE = 1 << 20  # bytes read at once from one file


class LogReader:
    """What was written to a run's logs since the last ``read``; follows on to a newer attempt."""

    def __init__(
        self,
        run: RunDirectory,
        attempt: int | None,
        names: tuple[str, ...],
        node: str = "",
        *,
        tail: int | None = None,
    ) -> None:
        """``tail``: begin so many bytes before the end of each file, at a line."""
        self._run, self._attempt, self._names, self._node, self._tail = run, attempt, names, node, tail
        self._offsets: dict[Path, int] = {}
        self._decoders: dict[Path, codecs.IncrementalDecoder] = {}

    def read(self) -> str:
        """New text; "" if there is none. Raises NotFoundError for an attempt or node that is not there.

        Of several nodes each one's text has its name above it.
        """
        found = {node: "".join(self._new(path) for path in paths) for node, paths in self._paths().items()}
        if len(found) == 1:
            return "".join(found.values())
        return "".join(f"==> {node} <==\n{text}" for node, text in found.items() if text)

    def _paths(self) -> dict[str, list[Path]]:
        """The log files by their node."""
        found = read_attempts(self._run)
        if self._attempt is not None:
            chosen = [attempt for attempt in found if attempt.number == self._attempt]
            if not chosen:
                raise NotFoundError(
                    f"{self._run.token} has no attempt {self._attempt}", hint=f"it has {len(found)}"
                )
        else:
            chosen = list(found[-1:])
        if chosen:
            folders = {attempts.node_name(folder): folder for folder in chosen[0].folders}
            if self._node and self._node not in folders:
                raise NotFoundError(f"no node {one_line(self._node)}", hint=f"it has {', '.join(folders)}")
            wanted = {self._node: folders[self._node]} if self._node else folders
            return {node: [folder / name for name in self._names] for node, folder in wanted.items()}
        # Nothing claimed: the launcher's own words may tell why.
        job = self._run.job(max(0, self._run.last_submission())) or {}
        return {"": list(default_log(self._run, str(job["job_id"])))} if job.get("job_id") else {}

    def _new(self, path: Path) -> str:
        file = atomic.open_regular(path)
        if file is None:
            return ""
        with file:
            cut = 0
            if path not in self._offsets and self._tail is not None:
                cut = max(0, os.fstat(file.fileno()).st_size - self._tail)
            file.seek(self._offsets.get(path, cut))
            data = file.read(PAGE)
            self._offsets[path] = file.tell()
        if cut:
            data = data.partition(b"\n")[2]
        decoder = self._decoders.setdefault(path, codecs.getincrementaldecoder("utf-8")("replace"))
        return decoder.decode(data)
