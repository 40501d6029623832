"""The states of a run, and the one table from Slurm's words to them.

Unknown words map to nothing: they change no state. Slurm's own word is always kept as ``detail``.
"""

from __future__ import annotations

from enum import Enum

from msgspec import Struct


class RunState(str, Enum):
    """The life of a run. A requeued run (preempted, lost node) goes back to PENDING."""

    SUBMITTING = "SUBMITTING"  # written down; Slurm may or may not have it yet
    PENDING = "PENDING"  # queued
    RUNNING = "RUNNING"  # a node works on it
    COMPLETED = "COMPLETED"  # it returned, and its end marker says so
    FAILED = "FAILED"  # it ended without success; `cause` says why
    CANCELLED = "CANCELLED"  # someone asked for its end
    TIMEOUT = "TIMEOUT"  # the wall time ended it
    OUT_OF_MEMORY = "OUT_OF_MEMORY"  # host or GPU memory ended it
    LOST = "LOST"  # Slurm knows it no more, and it left no end marker

    @property
    def is_final(self) -> bool:
        """True if nothing more happens to the run by itself."""
        return self not in (RunState.SUBMITTING, RunState.PENDING, RunState.RUNNING)


class Cause(str, Enum):
    """Why a run ended as it did."""

    NONE = ""
    USER_ERROR = "user error"  # the user's code raised or exited non-zero
    BAD_SUBMISSION = "refused by Slurm"
    CANCELLED = "cancelled"
    TIME_LIMIT = "time limit"
    OUT_OF_MEMORY = "out of memory"
    NODE_FAILURE = "node failure"
    BAD_NODE = "bad node"  # the checks before the training found the node unfit
    PREEMPTED = "preempted"
    LAUNCH_FAILURE = "launch failure"  # the node could not start it
    STOPPED = "stopped by a signal"  # it heeded the warning before the limit or a preemption
    KILLED = "killed by a signal"
    LOST = "lost"
    NO_PROGRESS = "no progress"  # requeued by Slurm again and again without a newer checkpoint

    @property
    def retryable(self) -> bool:
        """True if the same request may well succeed when tried again."""
        return self in _RETRYABLE


_RETRYABLE = {
    Cause.TIME_LIMIT,
    Cause.NODE_FAILURE,
    Cause.BAD_NODE,
    Cause.PREEMPTED,
    Cause.LAUNCH_FAILURE,
    Cause.STOPPED,
    Cause.LOST,
}


class Reading(Struct, frozen=True):
    """What one Slurm word says. ``provisional``: may be followed by a requeue of the same job."""

    state: RunState
    cause: Cause = Cause.NONE
    provisional: bool = False


_P, _R = Reading(RunState.PENDING), Reading(RunState.RUNNING)

# squeue(1) and sacct(1), JOB STATE CODES: 12 base states, then the flags that squeue shows in their place.
SLURM: dict[str, Reading] = {
    "PENDING": _P,
    "RUNNING": _R,
    "SUSPENDED": _R,
    "COMPLETED": Reading(RunState.COMPLETED),
    "CANCELLED": Reading(RunState.CANCELLED, Cause.CANCELLED),
    "FAILED": Reading(RunState.FAILED, Cause.USER_ERROR),
    "TIMEOUT": Reading(RunState.TIMEOUT, Cause.TIME_LIMIT),
    "NODE_FAIL": Reading(RunState.FAILED, Cause.NODE_FAILURE, provisional=True),
    "PREEMPTED": Reading(RunState.FAILED, Cause.PREEMPTED, provisional=True),
    "BOOT_FAIL": Reading(RunState.FAILED, Cause.LAUNCH_FAILURE, provisional=True),
    "DEADLINE": Reading(RunState.TIMEOUT, Cause.TIME_LIMIT),
    "OUT_OF_MEMORY": Reading(RunState.OUT_OF_MEMORY, Cause.OUT_OF_MEMORY),
    "COMPLETING": _R,
    "CONFIGURING": _P,
    "EXPEDITING": _P,
    "LAUNCH_FAILED": Reading(RunState.FAILED, Cause.LAUNCH_FAILURE, provisional=True),
    "POWER_UP_NODE": _P,
    "RECONFIG_FAIL": Reading(RunState.FAILED, Cause.LAUNCH_FAILURE, provisional=True),
    "REQUEUED": _P,
    "REQUEUE_FED": _P,
    "REQUEUE_HOLD": _P,
    "RESIZING": _R,
    "RESV_DEL_HOLD": _P,
    "REVOKED": Reading(RunState.CANCELLED, Cause.CANCELLED),
    "SIGNALING": _R,
    "SPECIAL_EXIT": _P,
    "STAGE_OUT": _R,
    "STOPPED": _R,
    "UPDATE_DB": _R,
}


def read_slurm(word: str) -> Reading | None:
    """The reading of a Slurm state word; None for a word we do not know."""
    return SLURM.get(word)
