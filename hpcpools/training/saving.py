"""Whether a training has the time to save before it is ended: what checkpoints took, what the site gives.

Owns the comparison and its words. Refuses to guess: without a measured checkpoint there is no verdict, and no
question to Slurm. ``train`` asks the site at most once a day; the answer is kept in ``<root>/.site.json``.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hpcpools import atomic
from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError
from hpcpools.runs import checkpoints, directory, restarts
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Request
from hpcpools.slurm import partition, site
from hpcpools.slurm.command import Runner
from hpcpools.training import engine

LOOK_BACK = 50  # newest runs among which one of the same training is looked for
KEPT = 86400.0  # seconds for which the site's facts are good enough for `train`


@dataclass(frozen=True)
class Notice:
    """What the site gives between a warning and the end; lengths of time in seconds.

    ``grace``: GraceTime of the partition, None if its jobs are not ended for others. ``early``: USR2 comes
    at its beginning; otherwise TERM alone, and with no GraceTime at its end.
    """

    kill_wait: int
    early: bool
    grace: int | None


@dataclass(frozen=True)
class Measured:
    """The 95th percentile of the seconds that ``count`` checkpoints of the run ``token`` took."""

    p95: float
    count: int
    token: str


@dataclass(frozen=True)
class Finding:
    """One line; ``short`` if the time does not suffice."""

    text: str
    short: bool = False


def compare(request: Request, notice: Notice, measured: Measured | None) -> list[Finding]:
    """What a training here is given before each kind of end, against what it needs. Pure."""
    asked = request.resources
    needs = measured.p95 if measured else 0.0
    limit = f"it is told to save {asked.signal_lead} s before its time limit"
    found = [Finding(limit)]
    if needs > asked.signal_lead:
        wanted = restarts.signal_lead(asked.signal_lead, asked.minutes, [needs])
        found = [Finding(f"{limit}: set training.signal_lead to {wanted} s or more", short=True)]
        if wanted < needs:
            found = [Finding(f"{limit}, half of its time at most: give it more --time", short=True)]
    name = asked.partition or "the default partition"
    window = (notice.grace or 0) + notice.kill_wait
    if notice.grace is not None:
        text = f"{name} is preemptible: GraceTime {notice.grace} s + KillWait {notice.kill_wait} s to save"
        if not notice.early:
            text += ", announced by TERM alone"
        advice = "; save often (what is newer than the last checkpoint is computed again), or use another"
        found.append(Finding(text + advice if needs > window else text, needs > window))
    text = f"a TERM without a warning (scancel, a node going down) leaves KillWait, {notice.kill_wait} s"
    advice = ": only what was saved before is safe, so save often"
    found.append(Finding(text + advice if needs > notice.kill_wait else text, needs > notice.kill_wait))
    if measured is None:
        return found
    took = f"a checkpoint takes {needs:.3g} s (95th percentile of {measured.count} in {measured.token})"
    return [Finding(took), *found]


def measured(config: Config, request: Request) -> Measured | None:
    """From the newest of the last runs of the same training that still has timed checkpoints."""
    for token in directory.tokens(config.root)[:LOOK_BACK]:
        run = RunDirectory(config.root, token)
        with contextlib.suppress(HpcpoolsError):
            earlier = run.request()
            if (earlier.target, earlier.command) != (request.target, request.command):
                continue
            took = checkpoints.write_seconds(run.checkpoints)
            if took:
                return Measured(restarts.p95(took), len(took), token)
    return None


def warnings(config: Config, request: Request) -> list[str]:
    """For ``train``: where the time is known not to suffice, with the measurement before it; else nothing.

    Refuses to fail: a site that does not answer is not warned about.
    """
    if request.engine != "slurm" or (known := measured(config, request)) is None:
        return []
    try:
        notice = read_notice(config, engine.runner(config), request.resources.partition, max_age=KEPT)
    except HpcpoolsError:
        return []
    found = compare(request, notice, known)
    short = [finding.text for finding in found if finding.short]
    return [found[0].text, *short] if short else []


def read_notice(config: Config, runner: Runner, name: str, *, max_age: float = 0.0) -> Notice:
    """The facts about partition ``name``; two questions if those on record are older than ``max_age`` s.

    Raises SlurmUnavailableError.
    """
    known: dict[str, Notice] = {}
    file = config.root / ".site.json"
    with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError):
        facts = atomic.read_json(file) or {}
        if abs(time.time() - facts["at"]) < max_age:
            known = {each: Notice(**notice) for each, notice in facts["partitions"].items()}
    if "" not in known:
        known = _ask(runner)
        _keep(file, known)
    asked = [known[each] for each in name.split(",") if each in known]  # Slurm takes a list, too
    ended = [notice for notice in asked if notice.grace is not None]
    if ended:
        return min(ended, key=lambda notice: notice.grace or 0)
    return asked[0] if asked else replace(known[""], grace=None)


def _ask(runner: Runner) -> dict[str, Notice]:
    """By partition; "" is the default one."""
    there = site.read_settings(runner)
    rows = partition.preemption(runner)
    names = ["", *(row.name for row in rows)]
    ended = {name: partition.preemptible(rows, name, there.preempt_type) for name in names}
    return {
        name: Notice(there.kill_wait_s, there.preempt_sends_signal, row.grace_s if row else None)
        for name, row in ended.items()
    }


def _keep(file: Path, known: dict[str, Notice]) -> None:
    with contextlib.suppress(OSError):
        rows = {name: asdict(notice) for name, notice in known.items()}
        atomic.write_json(file, {"at": time.time(), "partitions": rows})
