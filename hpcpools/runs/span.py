"""Which runs may have lived in a span of time, told without a look into them: most are old."""

from __future__ import annotations

import contextlib
from bisect import bisect_left
from pathlib import Path

from hpcpools.runs import directory
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.token import created_at

LONGEST_RUN = 366 * 86400.0  # seconds between a submission and its end, with all its restarts
SKEW = 86400.0  # seconds that the file server's clock, or a copy of the files, may be off


def tokens(root: Path, since: float) -> list[str]:
    """Tokens of the runs that may have lived after ``since`` (epoch seconds), newest first; some did not.

    The last thing that is written to a run's events is its end.
    """
    unsettled = {*directory.live_tokens(root), *directory.ended_tokens(root)}
    names = directory.tokens(root)
    young = bisect_left(names, LONGEST_RUN - since, key=lambda token: -created_at(token))
    found = []
    for number, token in enumerate(names):
        if token not in unsettled:
            if number >= young:
                continue
            with contextlib.suppress(OSError):
                if RunDirectory(root, token).events_file.stat().st_mtime < since - SKEW:
                    continue
        found.append(token)
    return found
