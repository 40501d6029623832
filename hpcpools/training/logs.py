"""Reading a run's logs: bounded pages, regular files of our own only, one attempt at a time (SEC-10)."""

from __future__ import annotations

import codecs
import os
import stat
from pathlib import Path

from hpcpools.errors import NotFoundError
from hpcpools.runs.attempts import read_attempts
from hpcpools.runs.directory import RunDirectory
from hpcpools.training.executors import default_log

PAGE = 1 << 20  # bytes read at once from one file


class LogReader:
    """What was written to a run's logs since the last ``read``; follows on to a newer attempt."""

    def __init__(self, run: RunDirectory, attempt: int | None, names: tuple[str, ...]) -> None:
        self._run, self._attempt, self._names = run, attempt, names
        self._offsets: dict[Path, int] = {}
        self._decoders: dict[Path, codecs.IncrementalDecoder] = {}

    def read(self) -> str:
        """New text; "" if there is none. Raises NotFoundError for an attempt that is not there."""
        return "".join(self._new(path) for path in self._paths())

    def _paths(self) -> list[Path]:
        attempts = read_attempts(self._run)
        if self._attempt is not None:
            chosen = [attempt for attempt in attempts if attempt.number == self._attempt]
            if not chosen:
                raise NotFoundError(
                    f"{self._run.token} has no attempt {self._attempt}", hint=f"it has {len(attempts)}"
                )
        else:
            chosen = list(attempts[-1:])
        if chosen:
            return [chosen[0].path / name for name in self._names]
        # Nothing claimed: the launcher's own words may tell why.
        job = self._run.job(max(0, self._run.last_submission())) or {}
        return list(default_log(self._run, str(job["job_id"]))) if job.get("job_id") else []

    def _new(self, path: Path) -> str:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return ""
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return ""
            file.seek(self._offsets.get(path, 0))
            data = file.read(PAGE)
            self._offsets[path] = file.tell()
        decoder = self._decoders.setdefault(path, codecs.getincrementaldecoder("utf-8")("replace"))
        return decoder.decode(data)
