"""`hpcpools doctor`: everything that must hold for both pools to work, each with the one thing to do.

Owns the list of checks. A check that cannot be made is a finding too; none changes anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from hpcpools.config import Config
from hpcpools.doctor import places, pools, site, store, versions
from hpcpools.doctor import probe as node
from hpcpools.doctor.finding import Finding, Level, fail, worst
from hpcpools.errors import HpcpoolsError
from hpcpools.redisdb import runtime

__all__ = ["CHECKS", "Finding", "Level", "examine", "worst"]

_NEED_REDIS = ("redis", "short pool", "schedule")
Check = Callable[[Config], Iterable[Finding]]
CHECKS: dict[str, Check] = {
    "versions": lambda config: versions.check(),
    "places": places.check,
    "routing": pools.routing,
    "services": pools.services,
    "redis": store.check,
    "short pool": pools.short,
    "schedule": pools.schedule,
    "slurm": site.check,
}


def examine(config: Config, *, probe: float | None = None) -> Iterator[Finding]:
    """Every finding, check after check; what stops a check is its finding.

    ``probe``: also ask a compute node, and wait so many seconds for it.
    """
    checks = dict(CHECKS)
    if runtime.uses_own_redis(config) and not pools.running(config):
        for name in _NEED_REDIS:  # that nothing runs is said once
            del checks[name]
    if probe is not None:
        checks["compute node"] = lambda config: node.check(config, probe)
    for name, check in checks.items():
        try:
            yield from check(config)
        except HpcpoolsError as error:
            yield fail(name, error.message, error.hint)
