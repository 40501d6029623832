"""How a task ended, in words: what its result, its exception or the end of its process means.

Owns the reasons that users read; pure functions. Refuses results that JSON cannot carry whole.
"""

from __future__ import annotations

import json
import signal
import traceback
from typing import Any

from hpcpools.errors import HpcpoolsError, RefusedError
from hpcpools.textsafe import one_line

MAX_RESULT = 1024 * 1024  # bytes of JSON
# Causes of a failure, to be counted by: the task raised; ran too long; held too much; somebody asked for the
# end; its process ended by itself; its workers were killed, too often.
RAISED, LIMIT, MEMORY, ASKED, ENDED, LOST = CAUSES = ("raised", "limit", "memory", "asked", "ended", "lost")
_OURS = ("rq.", "hpcpools.short.", "hpcpools.lane.")


class Reason(str):
    """Why a task failed, for people to read; ``cause`` is the one of CAUSES that it counts as."""

    cause: str

    def __new__(cls, text: str, cause: str) -> Reason:
        """``text``, counted as ``cause``."""
        reason = super().__new__(cls, text)
        reason.cause = cause
        return reason


STOPPED = Reason("stopped by user", ASKED)
KILLED = Reason("killed by signal 9 (SIGKILL), as kill-horse asked", ASKED)


def check_result(value: Any) -> bytes:
    """The value as JSON. Raises RefusedError unless it can be kept as a result."""
    try:
        text = json.dumps(value, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise RefusedError(
            f"its result ({type(value).__name__}) is not JSON: {one_line(str(error))}",
            hint="return numbers, strings, lists, dicts; write anything else to a file and return the path",
        ) from None
    if len(text) > MAX_RESULT:
        raise RefusedError(
            f"its result is {len(text)} bytes of JSON, the limit is {MAX_RESULT}",
            hint="write it to a file and return the path",
        )
    return text


def over(limit: float) -> Reason:
    """It did not end in time."""
    return Reason(f"ran over its limit of {limit:g} s", LIMIT)


def too_large(used: int, limit: int) -> Reason:
    """It held more memory than ``limit``; both in bytes."""
    sizes = f"used {used / 2**30:.2g} GiB of memory, the limit is {limit / 2**30:.2g} GiB"
    return Reason(f"{sizes} (short.memory_mb)", MEMORY)


def cause(code: int) -> Reason:
    """Its process ended with this exit code (negative: a signal) without a word."""
    if code >= 0:
        return Reason(f"its process exited with code {code} before the task returned", ENDED)
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    memory = ", perhaps out of memory" if -code == signal.SIGKILL else ""
    return Reason(f"killed by signal {-code} ({name}){memory}", ENDED)


def killed_too_often(deaths: int, last: str) -> str:
    """That many workers were killed while they ran it; ``last``: how the last one died, if that is known."""
    return f"its worker was killed {deaths} times while it ran" + (last and f" ({last})")


def describe(error: BaseException) -> str:
    """The exception in one line; our own errors speak for themselves."""
    if isinstance(error, HpcpoolsError):
        return one_line(str(error), 2000)
    return one_line("".join(traceback.format_exception_only(error)).strip(), 2000)


def trace(error: BaseException) -> str:
    """The traceback from the user's first frame on; empty if it was not the user's code."""
    frame = error.__traceback__
    while frame and frame.tb_frame.f_globals.get("__name__", "").startswith(_OURS):
        frame = frame.tb_next
    if frame is None:
        return ""
    return "Traceback (most recent call last):\n" + "".join(traceback.format_tb(frame))
