"""The one number of everything that hpcpools keeps: run directories, sweeps, pipelines, batches, Redis.

It rises when an older version would misread what a newer one writes. Owns the check that stands before every
strict reading. Refuses, in one line and without touching them, data that are newer than this version. Data
without a number are of format 1. Caches (``.poll.json``, ``.site.json``) have none: they are made anew.
"""

from __future__ import annotations

from typing import Any

import msgspec

from hpcpools.errors import RefusedError
from hpcpools.textsafe import one_line

FORMAT = 1


class _Number(msgspec.Struct, frozen=True):
    format: Any = FORMAT


def check(found: object, what: str) -> None:
    """Raise RefusedError if ``found``, the format of ``what``, is not one that this version reads."""
    if type(found) is not int or not 1 <= found <= FORMAT:
        raise RefusedError(
            f"{what} has format {one_line(str(found), 40)}, this hpcpools reads format {FORMAT}",
            hint="a newer hpcpools wrote it: upgrade this one; nothing was changed",
        )


def check_bytes(data: bytes, what: str) -> None:
    """As :func:`check`, for a JSON object in ``data``. Raises msgspec.MsgspecError for anything else."""
    check(msgspec.json.decode(data, type=_Number).format, what)
