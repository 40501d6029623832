"""How much of Slurm this pool takes at once, and the limit to it (LOAD-5): counted from our own marks.

Refuses to ask Slurm: a run is in flight until its end is on record here.
"""

from __future__ import annotations

import contextlib
from collections import Counter

from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError, RefusedError
from hpcpools.runs import directory
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.sweeps import SweepDirectory


def count(config: Config) -> int:
    """The jobs in flight, exact from ``slurm.max_in_flight`` on (below it a directory listing will do).

    Of a sweep at most those elements count that its arrays let run at once.
    """
    tokens = directory.live_tokens(config.root)
    if len(tokens) < config.slurm.max_in_flight:
        return len(tokens)
    single, elements = 0, Counter[str]()
    for token in tokens:
        with contextlib.suppress(HpcpoolsError):
            request = RunDirectory(config.root, token).request()
            if request.engine == "slurm" and request.sweep:
                elements[request.sweep] += 1
            elif request.engine == "slurm":
                single += 1
    return single + sum(min(live, _at_once(config, sweep, live)) for sweep, live in elements.items())


def check(config: Config) -> None:
    """Raise RefusedError if one more job would be over the limit."""
    limit = config.slurm.max_in_flight
    if (now := count(config)) >= limit:
        raise RefusedError(
            f"{now} trainings of this pool are in flight already, the limit is {limit}",
            hint="wait for some to end; many like trainings are one `hpcpools sweep`; or slurm.max_in_flight",
        )


def _at_once(config: Config, sweep: str, live: int) -> int:
    """How many elements of a sweep run at once; ``live`` if its arrays cannot be read."""
    try:
        place = SweepDirectory(config.root, sweep)
        arrays = [place.array(number) for number in place.numbers()]
        return sum(array.parallel for array in arrays if array) or live
    except HpcpoolsError:
        return live
