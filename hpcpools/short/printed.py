"""What tasks print through Python, as events with the id of their job, so that `hpcpools logs JOB` finds it.

Owns the two streams of a child. What C code or another process writes goes past them, as plain text.
"""

from __future__ import annotations

import io
import sys

from hpcpools.eventlog import event, log

LONGEST = 2000  # characters of a line; more begins another event


class Printed(io.TextIOBase):
    """A text stream that tells each line as an event of the job that runs at that moment."""

    def __init__(self, stream: str, fd: int) -> None:
        self._stream, self._fd = stream, fd
        self._partial = ""

    encoding = "utf-8"
    errors = "backslashreplace"

    def write(self, text: str) -> int:
        """Tell the lines that are whole now; progress bars end theirs with a carriage return."""
        *whole, rest = (self._partial + text).replace("\r", "\n").split("\n")
        while len(rest) > LONGEST:
            whole.append(rest[:LONGEST])
            rest = rest[LONGEST:]
        self._partial = rest
        for line in whole:
            self._tell(line)
        return len(text)

    def flush(self) -> None:
        """Tell the line that has no end yet."""
        rest, self._partial = self._partial, ""
        self._tell(rest)

    def writable(self) -> bool:
        """True."""
        return True

    def fileno(self) -> int:
        """The real stream's, for programs that a task starts."""
        return self._fd

    def _tell(self, line: str) -> None:
        if line.strip():
            log.info(event("print", stream=self._stream, text=line))


def capture() -> None:
    """Put the streams of this process in place."""
    sys.stdout = Printed("stdout", 1)
    sys.stderr = Printed("stderr", 2)
