"""The table of Slurm's state words."""

from __future__ import annotations

import pytest

from hpcpools.slurm import accounting, queue
from hpcpools.slurm.states import STATES, meaning, state_word
from tests.unit.slurm import SEPARATOR, captured

BASE = [
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PENDING"),
    *("PREEMPTED", "RUNNING", "SUSPENDED", "TIMEOUT"),
]
FLAGS = [
    *("COMPLETING", "CONFIGURING", "EXPEDITING", "LAUNCH_FAILED", "POWER_UP_NODE", "RECONFIG_FAIL"),
    *("REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESIZING", "RESV_DEL_HOLD", "REVOKED", "SIGNALING"),
    *("SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "UPDATE_DB"),
]


def test_table_is_complete() -> None:
    """Slurm's 12 base states and 17 flags, each with a line of explanation, and no other word."""
    assert sorted(word for word, found in STATES.items() if not found.flag) == BASE
    assert sorted(word for word, found in STATES.items() if found.flag) == FLAGS
    assert all(found.summary and found.word == word for word, found in STATES.items())


@pytest.mark.parametrize("word", ["", "SOMETHING_NEW", "completed", "COMPLETED "])
def test_unknown_word(word: str) -> None:
    """A word that is not in the table is neither running nor ended, and may change."""
    assert (meaning(word).phase, meaning(word).provisional, meaning(word).word) == ("unknown", True, word)


def test_provisional() -> None:
    """States after which the same job may come back are provisional; plain ends are not."""
    provisional = {word for word in BASE if meaning(word).provisional}
    assert provisional == {"BOOT_FAIL", "NODE_FAIL", "PREEMPTED"}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("CANCELLED by 0", "CANCELLED"),
        ("CANCELLED+", "CANCELLED"),
        (" RUNNING ", "RUNNING"),
        ("OUT_OF_MEMORY", "OUT_OF_MEMORY"),
        ("", ""),
        ("123", ""),
        ("\x1b[31mFAILED", ""),
    ],
)
def test_state_word(text: str, word: str) -> None:
    """sacct's additions are left out; what is no word is none."""
    assert state_word(text) == word


def test_real_words_are_known() -> None:
    """Every state that the captured squeue and sacct show is in the table."""
    shown = {job.state for job in queue.parse(captured("squeue.txt"), SEPARATOR)}
    shown |= {job.state for job in accounting.parse(captured("sacct.txt"), SEPARATOR)}
    assert shown <= STATES.keys()
    assert {"RUNNING", "REQUEUED", "TIMEOUT", "NODE_FAIL", "PREEMPTED"} <= shown
