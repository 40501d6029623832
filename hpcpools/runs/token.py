"""The names of runs (``hp-``), sweeps (``hs-``), the lane's batches (``hl-``) and jobs from templates
(``ht-``): 26 characters that sort by time. Never a Slurm id."""

from __future__ import annotations

import re
import secrets

from hpcpools.errors import NotFoundError
from hpcpools.textsafe import one_line

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32
PATTERN = re.compile(r"hp-[0-9a-hjkmnp-tv-z]{26}")
SWEEP_PATTERN = re.compile(r"hs-[0-9a-hjkmnp-tv-z]{26}")
BATCH_PATTERN = re.compile(r"hl-[0-9a-hjkmnp-tv-z]{26}")


def new_token(now: float) -> str:
    """A token of ``now`` (epoch seconds): 48 bits of milliseconds, then 80 random bits."""
    return "hp-" + _sortable(now)


def new_sweep_id(now: float) -> str:
    """A sweep's id, made like a run's token."""
    return "hs-" + _sortable(now)


def new_batch_token(now: float) -> str:
    """The name of a batch of the lane, made like a run's token."""
    return "hl-" + _sortable(now)


def new_job_token(now: float) -> str:
    """The name of a job made from a template, made like a run's token."""
    return "ht-" + _sortable(now)


def _sortable(now: float) -> str:
    number = int(now * 1000) << 80 | secrets.randbits(80)
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def created_at(token: str) -> float:
    """The time in a token, epoch seconds."""
    number = 0
    for character in token[3:13]:
        number = number << 5 | _ALPHABET.index(character)
    return number / 1000


def is_token(text: str) -> bool:
    """True for a whole, well-formed token."""
    return PATTERN.fullmatch(text) is not None


def is_batch_token(text: str) -> bool:
    """True for the whole, well-formed name of a batch."""
    return BATCH_PATTERN.fullmatch(text) is not None


def check_token(text: str) -> str:
    """``text`` if it is a token; raise NotFoundError otherwise (so it can never be a path)."""
    if not is_token(text):
        raise NotFoundError(
            f"{one_line(text)!r} is not a run", hint="`hpcpools runs` lists them; a run starts with hp-"
        )
    return text


def names_pipeline(text: str) -> bool:
    """True for a pipeline's id (``hq-``), or the start of one; the ids of its short jobs go on after it."""
    return text.startswith("hq-") and "-" not in text[3:]
