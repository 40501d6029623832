"""Records with free text in them (job names, comments), read so that no text can forge a field or a record.

Each call draws a separator that nobody could know when the text was written. Refuses an answer of any other
shape.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence

from hpcpools.errors import SlurmUnavailableError
from hpcpools.slurm import states

# The token of a run, a lane's batch or a template's job; or an array's: the sweep's id and its number in it.
_NAMES = r"(?:h[plt]-[0-9a-z]{26}|hs-[0-9a-z]{26}\.[0-9]{1,6})"
TOKEN = re.compile(_NAMES)
_WHOLE = re.compile(rf"(?<![0-9A-Za-z]){_NAMES}(?![0-9A-Za-z])")
_NOTHING = frozenset({"", "N/A", "NONE", "None", "None assigned", "Unknown", "(null)", "n/a"})


def new_separator() -> str:
    """64 random bits between signs that are harmless in every format argument."""
    return f"<~{secrets.token_hex(8)}>"


def split(text: str, separator: str, fields: Sequence[str]) -> list[dict[str, str]]:
    """The records of ``text``, where every one of the named fields is followed by ``separator``.

    Padding is stripped. Raises SlurmUnavailableError if it does not come out even.
    """
    width = len(fields)
    *cells, rest = text.split(separator)
    if len(cells) % width or rest.strip():
        raise SlurmUnavailableError(
            f"Slurm's answer has {len(cells)} fields where records of {width} were asked",
            hint="please report it with the Slurm version",
        )
    for start in range(0, len(cells), width):  # what stands before a record is the last one's line end
        cells[start] = cells[start].rpartition("\n")[2].lstrip()
    rows = (cells[start : start + width] for start in range(0, len(cells), width))
    return [dict(zip(fields, (cell.rstrip(" ") for cell in row), strict=True)) for row in rows]


def word(cell: str) -> str:
    """A cell's text, or "" for the ways Slurm says nothing."""
    return "" if cell.strip() in _NOTHING else cell.strip()


def moment(cell: str) -> float | None:
    """Epoch seconds, or None where there is no time (yet)."""
    return float(cell) if cell.isdecimal() else None


def exit_status(state: str, cell: str) -> tuple[int | None, int | None]:
    """(exit code, signal) of ``3:0``, ``0:9``, or squeue's raw wait status (768, 9); never both.

    0 only for COMPLETED: Slurm writes ``0:0`` also for what still runs and for what it ended itself.
    """
    code, colon, number = cell.strip().partition(":")
    if states.meaning(state).phase != "ended" or not code.isdecimal() or (colon and not number.isdecimal()):
        return None, None
    exit_code, signal = (int(code), int(number)) if colon else (int(code) >> 8 & 0xFF, int(code) & 0x7F)
    if signal:
        return None, signal
    return (exit_code if exit_code or state == "COMPLETED" else None), None


def token_of(comment: str, name: str) -> str:
    """The run's or array's token: the whole comment, else the one token within the name; "" for none.

    The name counts because a site may rewrite comments, and accounting has none before the job's end.
    """
    if TOKEN.fullmatch(comment):
        return comment
    found = _WHOLE.findall(name)
    return found[0] if len(found) == 1 else ""
