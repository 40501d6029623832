"""``hpcpools gc``: whole runs, sweeps and pipelines that ended long ago, then the code that no run refers to.

Owns what may go. Never removes what is live, pinned or waited for, nor anything outside the root; a sweep
goes as a whole, and the runs of a pipeline that is kept stay with it. One look at each directory.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError
from hpcpools.maintenance import metrics
from hpcpools.maintenance.parallel import mapped
from hpcpools.pipeline import evaluate
from hpcpools.pipeline import record as pipelines
from hpcpools.pipeline.record import PipelineRecord
from hpcpools.runs import checkpoints, code, directory, removal, sweeps
from hpcpools.runs.directory import RunDirectory, check_owned
from hpcpools.runs.sweeps import SweepDirectory
from hpcpools.runs.token import created_at, is_token

VERDICT = 86400.0  # seconds that upkeep has for an ended run's verdict, whatever the retention
CHUNK = 50  # runs, or sweeps of them, that one process removes at a time
_SWEEP, _PROBLEM = "its sweep", "a problem"  # why a run stays
CODE_UNUSED = 3600.0  # seconds: code that was just kept may be that of a run which is being submitted
# A snapshot, its patch, or what a copy that died and a snapshot that was found damaged have left.
_STORED = re.compile(r"(?:\.damaged\.|\.)?([0-9a-f]{64})(?:\.[\w.]+)?", re.ASCII)


class _Code(Struct, frozen=True):
    digest: str


class _Brief(Struct, frozen=True):
    """What matters here of ``run.json``."""

    token: str
    sweep: str = ""
    target: str = ""
    code: _Code | None = None


@dataclass(frozen=True)
class _Run:
    """One run: its request if it can be read, and why it stays ("" if it may go)."""

    brief: _Brief
    kept: str


@dataclass
class Collected:
    """What was, or with ``dry_run`` would be, removed; and how many runs are kept though old, by reason."""

    dry_run: bool
    runs: list[str] = field(default_factory=list)
    sweeps: list[str] = field(default_factory=list)
    pipelines: list[str] = field(default_factory=list)
    snapshots: list[str] = field(default_factory=list)
    kept: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """For the short job's result."""
        numbers = {name: len(getattr(self, name)) for name in ("runs", "sweeps", "pipelines", "snapshots")}
        return {
            "dry_run": self.dry_run,
            **numbers,
            "kept": dict(self.kept),
            "problems": self.problems[:20],
        }


def collect(
    config: Config,
    older_than: float,
    *,
    dry_run: bool,
    now: float | None = None,
    heed: Callable[[int, int], None] = lambda _done, _total: None,
) -> Collected:
    """Remove what ended more than ``older_than`` seconds ago. ``heed(done, total)`` hears the progress."""
    outcome = Collected(dry_run)
    if config.root.is_dir():
        check_owned(config.root)
        _Collection(config, older_than, time.time() if now is None else now, outcome).go(heed)
    return outcome


class _Collection:
    """One pass: look at everything, decide, remove runs, sweeps, pipelines and code, in this order."""

    def __init__(self, config: Config, older_than: float, now: float, outcome: Collected) -> None:
        self.config, self.root, self.outcome = config, config.root, outcome
        self.now, self.older_than, self.cutoff = now, older_than, now - older_than
        self.blind = False  # a run cannot be read: nobody knows what it refers to
        self.digests: set[str] = set()  # the code that is referred to
        self.sweeps_kept: set[str] = set()

    def go(self, heed: Callable[[int, int], None]) -> None:
        """Do it."""
        old_pipelines, wanted = self._pipelines()
        runs = self._runs(wanted)
        self._remove_runs(runs, heed)
        for name in sweeps.ids(self.root):
            if name not in self.sweeps_kept and self._is_old(SweepDirectory(self.root, name).file):
                self._try(name, self._remove_sweep, self.outcome.sweeps)
        for name in old_pipelines:
            self._try(name, self._remove_pipeline, self.outcome.pipelines)
        self.outcome.kept = +self.outcome.kept
        self._code(set(runs))
        if not self.outcome.dry_run:
            self._bury_the_rest()
            metrics.forget(self.config, self.outcome.runs)

    def _remove_runs(self, runs: dict[str, _Run], heed: Callable[[int, int], None]) -> None:
        self.sweeps_kept = {run.brief.sweep for run in runs.values() if run.kept} - {""}
        groups: dict[str, list[str]] = {}  # the runs of a sweep go together
        for token, run in runs.items():
            if why := run.kept or (_SWEEP if run.brief.sweep in self.sweeps_kept else ""):
                self._keep(run.brief, why)
            else:
                groups.setdefault(run.brief.sweep or token, []).append(token)
        remove = partial(_remove_runs, dry_run=self.outcome.dry_run)
        done = len(runs) - sum(map(len, groups.values()))
        for answers in mapped(remove, self.config, list(groups.values()), CHUNK):
            for token, (why, problem) in answers.items():
                self.outcome.problems += [problem] if problem else []
                if why:
                    self._keep(runs[token].brief, why)
                else:
                    self.outcome.runs.append(token)
            done += len(answers)
            heed(done, len(runs))
        self.outcome.runs.sort()

    def _keep(self, brief: _Brief, why: str) -> None:
        self.outcome.kept[why] += why != "young"
        self.sweeps_kept |= {brief.sweep} - {""}
        self.digests |= {brief.code.digest} if brief.code else set()

    def _try(self, name: str, remove: Callable[[str], bool], removed: list[str]) -> bool:
        try:
            gone = remove(name)
        except (HpcpoolsError, OSError, ValueError) as error:
            self.outcome.problems.append(f"{name}: {error}")
            return False
        removed += [name] if gone else []
        return gone

    def _is_old(self, path: Path) -> bool:
        try:
            return path.lstat().st_mtime < self.cutoff
        except FileNotFoundError:
            return False

    def _pipelines(self) -> tuple[list[str], set[str]]:
        """The pipelines that may go, and the runs that the others need."""
        old, needed = [], set()
        for name in pipelines.ids(self.root):
            record = PipelineRecord(self.root, name)
            if not record.is_live() and self._is_old(record.path):
                old.append(name)
                continue
            try:
                for brief in _requests(record.path):
                    needed.add(brief.token)
                    self.digests |= {brief.code.digest} if brief.code else set()
            except (OSError, ValueError) as error:
                self.outcome.problems.append(f"{name}: {error}")
                self.blind = True
        return old, needed

    def _runs(self, needed: set[str]) -> dict[str, _Run]:
        live = set(directory.live_tokens(self.root))
        ended = set(directory.ended_tokens(self.root))
        found = {}
        with os.scandir(self.root) as entries:
            names = sorted(item.name for item in entries if is_token(item.name))
        for token in names:
            run = RunDirectory(self.root, token)
            try:
                brief, at = _brief(run)
            except (OSError, HpcpoolsError, msgspec.MsgspecError) as error:
                self.outcome.problems.append(f"{token}: {error}")
                self.blind = True
                continue
            late = token in ended and at > self.now - VERDICT
            young = created_at(token) >= self.cutoff or at >= self.cutoff
            if token in live or young or late:
                why = "young"
            elif token in needed:
                why = "its pipeline"
            else:
                why = self._holds(run, brief)
            found[token] = _Run(brief, why)
        return found

    def _holds(self, run: RunDirectory, brief: _Brief) -> str:
        """Why an old run must stay all the same."""
        there = run.checkpoints.is_dir() and not run.checkpoints.is_symlink()
        if there and any((item / checkpoints.PINNED).exists() for item in run.checkpoints.iterdir()):
            return "a pinned checkpoint"
        if there and brief.target in self.config.continuous_evaluation:
            with contextlib.suppress(HpcpoolsError):
                if evaluate.needed(self.config, run, checkpoints.complete(run.checkpoints)):
                    return "an evaluation"
        return ""

    def _remove_sweep(self, name: str) -> bool:
        place = SweepDirectory(self.root, name)
        check_owned(place.file.parent)
        if not self.outcome.dry_run:
            place.file.unlink()
            with contextlib.suppress(FileNotFoundError):
                removal.remove(place.folder)
        return True

    def _remove_pipeline(self, name: str) -> bool:
        record = PipelineRecord(self.root, name)
        check_owned(record.path.parent)
        check_owned(record.path)
        if record.is_live():
            return False
        if not self.outcome.dry_run:
            removal.remove(record.path)
        return True

    def _code(self, looked_at: set[str]) -> None:
        """What lies in the store of code, unless somebody refers to it or has just used it."""
        store = code.store(self.root)
        if not store.is_dir():
            return
        check_owned(store)
        for token in set(directory.tokens(self.root)) - looked_at:  # submitted while we looked
            with contextlib.suppress(OSError, HpcpoolsError, msgspec.MsgspecError):
                brief, _ = _brief(RunDirectory(self.root, token))
                self.digests |= {brief.code.digest} if brief.code else set()
        if self.blind:
            self.outcome.problems.append("code snapshots stay: not every run could be read")
            return
        unused = self.now - max(CODE_UNUSED, self.older_than)
        with os.scandir(store) as entries:
            found = [(item.name, item.stat(follow_symlinks=False)) for item in entries]
        for name, facts in found:
            ours = _STORED.fullmatch(name)
            if ours is None or (ours[1] in self.digests and not name.startswith(".")):
                continue
            if facts.st_mtime < unused:
                self._try(name, lambda each: self._remove_code(store / each), self.outcome.snapshots)

    def _remove_code(self, path: Path) -> bool:
        folder = stat.S_ISDIR(path.lstat().st_mode)
        if not self.outcome.dry_run and folder:
            removal.remove(path)
        elif not self.outcome.dry_run:
            path.unlink()  # the patch beside a snapshot, or a link that is not ours
        return folder

    def _bury_the_rest(self) -> None:
        """What an earlier removal left when it was killed."""
        for folder in (self.root, self.root / ".sweeps", self.root / ".pipelines"):
            with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
                for name in [item.name for item in entries if removal.is_grave(item.name)]:
                    removal.bury(folder / name)


def _remove_runs(
    config: Config, groups: Sequence[Sequence[str]], *, dry_run: bool
) -> dict[str, tuple[str, str]]:
    """For each run why it stays ("" if it is gone) and what went wrong; one that stays keeps its group."""
    found: dict[str, tuple[str, str]] = {}
    root = config.root
    for tokens in groups:
        found |= dict.fromkeys(tokens, (_SWEEP, ""))
        for token in tokens:
            try:
                gone = removal.remove_run(RunDirectory(root, token), dry_run=dry_run)
                found[token] = "" if gone else _PROBLEM, ""
            except (HpcpoolsError, OSError, ValueError) as error:
                gone, found[token] = False, (_PROBLEM, f"{token}: {error}")
            if not gone:
                break
    return found


def _brief(run: RunDirectory) -> tuple[_Brief, float]:
    """What is asked for, and when the last thing happened; of half a run, what there is."""
    facts = run.path.lstat()
    if not stat.S_ISDIR(facts.st_mode):
        raise HpcpoolsError("no directory", hint="hpcpools did not make it")
    try:
        brief = msgspec.json.decode(run.run_file.read_bytes(), type=_Brief)
        return brief, max(facts.st_mtime, run.events_file.lstat().st_mtime)
    except FileNotFoundError:
        return _Brief(run.token), facts.st_mtime


def _requests(folder: Path) -> Iterator[_Brief]:
    """Every run that a pipeline has asked for, also if it was not made yet."""
    with os.scandir(folder) as entries:
        files = [Path(item.path) for item in entries if item.name.endswith(".submit.json")]
    for file in files:
        for text in msgspec.json.decode(file.read_bytes()).get("runs", ()):
            yield msgspec.json.decode(text, type=_Brief)
