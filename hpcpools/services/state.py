"""What is known of one service, and how long to wait before starting it again.

Owns the words for a service's state. Refuses effects: data and pure decisions only.
"""

from __future__ import annotations

import signal
from typing import Literal

from msgspec import Struct

State = Literal["stopped", "starting", "running", "stopping", "backoff"]

BACKOFF_FIRST = 0.2  # seconds
BACKOFF_MOST = 30.0  # seconds
HEALTHY_AFTER = 60.0  # seconds of running after which earlier deaths are forgotten


class ServiceState(Struct, frozen=True):
    """One service as the supervisor sees it."""

    name: str
    state: State
    pid: int | None = None
    since: float | None = None  # unix time at which it entered this state
    restarts: int = 0  # how often it was started again after a death
    failures: int = 0  # deaths and refused starts in a row
    last_exit: str = ""  # "exit 1", "killed by SIGKILL"
    detail: str = ""  # why it is not running


def backoff(failures: int) -> float:
    """Seconds to wait after ``failures`` deaths in a row: 0.2, 0.4, 0.8 … 30."""
    return min(BACKOFF_MOST, BACKOFF_FIRST * 2.0 ** min(failures - 1, 30))


def exit_text(code: int) -> str:
    """A child's return code in words; negative means the signal that killed it."""
    if code >= 0:
        return f"exit {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
