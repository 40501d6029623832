"""Slurm's own words for a job's state and what each says about Slurm's phases, nothing about success.

Source: squeue(1) and sacct(1), JOB STATE CODES. A word that is not in the table has the phase ``unknown``.
"""

from __future__ import annotations

import re
from typing import Literal

from msgspec import Struct

Phase = Literal["pending", "running", "ended", "unknown"]


class Meaning(Struct, frozen=True):
    """``provisional``: the same job may still come back (requeue) or the real state is yet to be shown.

    ``flag``: shown in place of the base state while something is under way.
    """

    word: str
    phase: Phase
    summary: str
    provisional: bool = False
    flag: bool = False


def _base(word: str, phase: Phase, summary: str, *, provisional: bool = False) -> Meaning:
    return Meaning(word, phase, summary, provisional=provisional)


def _flag(word: str, phase: Phase, summary: str, *, provisional: bool = False) -> Meaning:
    return Meaning(word, phase, summary, provisional=provisional, flag=True)


_ALL = (
    _base("BOOT_FAIL", "ended", "a node failed to boot; Slurm usually requeues", provisional=True),
    _base("CANCELLED", "ended", "cancelled by the user or an administrator"),
    _base("COMPLETED", "ended", "every process ended with exit code 0"),
    _base("DEADLINE", "ended", "ended at its deadline"),
    _base("FAILED", "ended", "ended with a non-zero exit code or another failure"),
    _base("NODE_FAIL", "ended", "a node failed; Slurm usually requeues", provisional=True),
    _base("OUT_OF_MEMORY", "ended", "killed for using more memory than it asked for"),
    _base("PENDING", "pending", "waits for resources, a time, a dependency or a release"),
    _base("PREEMPTED", "ended", "ended for a job of higher priority; requeued or not", provisional=True),
    _base("RUNNING", "running", "has its nodes"),
    _base("SUSPENDED", "running", "stopped by Slurm; its CPUs are lent to others"),
    _base("TIMEOUT", "ended", "ended at its time limit"),
    _flag("COMPLETING", "running", "its processes are being ended", provisional=True),
    _flag("CONFIGURING", "pending", "has nodes, which are still starting"),
    _flag("EXPEDITING", "pending", "requeued with the highest priority"),
    _flag("LAUNCH_FAILED", "ended", "could not be launched on its node", provisional=True),
    _flag("POWER_UP_NODE", "pending", "waits for powered-down nodes"),
    _flag("RECONFIG_FAIL", "ended", "its node could not be reconfigured", provisional=True),
    _flag("REQUEUED", "pending", "on its way back into the queue", provisional=True),
    _flag("REQUEUE_FED", "pending", "on its way back into a federation's queue", provisional=True),
    _flag("REQUEUE_HOLD", "pending", "requeued and held until someone releases it"),
    _flag("RESIZING", "running", "is changing its size"),
    _flag("RESV_DEL_HOLD", "pending", "held, as its reservation was deleted"),
    _flag(
        "REVOKED", "ended", "given up here, as another cluster of the federation started it", provisional=True
    ),
    _flag("SIGNALING", "running", "is being signalled"),
    _flag("SPECIAL_EXIT", "pending", "requeued and held in a special state that the site defines"),
    _flag("STAGE_OUT", "running", "copies its files out of the burst buffer"),
    _flag("STOPPED", "running", "stopped by a signal; it keeps its CPUs"),
    _flag("UPDATE_DB", "unknown", "its record is on the way to the database", provisional=True),
)
STATES = {meaning.word: meaning for meaning in _ALL}


def state_word(text: str) -> str:
    """``CANCELLED`` of ``CANCELLED by 1000``; "" if there is no word."""
    found = re.match(r"[A-Z][A-Z_]*", text.strip().upper())
    return found.group() if found else ""


def meaning(word: str) -> Meaning:
    """The table's line for ``word``; phase ``unknown`` (neither success nor failure) for any other."""
    return STATES.get(word) or Meaning(
        word, "unknown", "a state that hpcpools does not know", provisional=True
    )
