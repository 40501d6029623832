"""All runs in memory, kept up to date by one thread, so that a page over 100 000 of them opens no file.

Owns the rows and when they are read again: what ended once, what lives at every look, what is new from the
index in Redis if that holds its end, else from its directory. The thread rests while nobody looks.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from hpcpools.config import Config
from hpcpools.dashboard.rows import FINAL, Page, Row, parsed, searched, sort_key, unreadable
from hpcpools.errors import HpcpoolsError
from hpcpools.eventlog import event, log
from hpcpools.maintenance.metrics import summary
from hpcpools.redisdb import keys
from hpcpools.redisdb.resp import reader
from hpcpools.runs import directory
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.view import read_view
from hpcpools.textsafe import one_line
from hpcpools.training import engine, watch

EVERY = 2.0  # seconds between two looks while somebody watches
WATCHED = 30.0  # seconds after the last page for which somebody counts as watching
FIRST = 10.0  # seconds that a page waits for the very first look ...
LATER = 0.6  # ... and for a later one: after a rest, or while Slurm does not answer, it shows old facts
PATIENCE = 0.3  # seconds that it waits for rows that are still to be read, if they are few
FEW = 2000
CHUNK = 500  # rows asked of Redis, or read from files, before the pages see them


@dataclass
class Facts:
    """When the runs were last looked at, and how fresh Slurm's part of it is."""

    at: float = 0.0
    slurm_as_of: float | None = None
    slurm_error: str = ""
    engine: str = ""
    problem: str = ""  # why the last look failed


@dataclass
class Table:
    """The rows of one pool. Every method may be called from any thread."""

    config: Config
    facts: Facts = field(default_factory=Facts)
    _rows: dict[str, Row] = field(default_factory=dict)
    _known: list[str] = field(default_factory=list)  # newest first
    _live: set[str] = field(default_factory=set)
    _stamp: int = 0  # of the root directory when the names were listed
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _looked: threading.Condition = field(default_factory=threading.Condition)
    _wanted: threading.Event = field(default_factory=threading.Event)
    _tried: bool = False  # there was a look, or the attempt of one
    _hurry: threading.Event = field(default_factory=threading.Event)
    _asked: float = 0.0  # when somebody last watched, on the monotonic clock
    _changed: float = 0.0  # when something was last changed through us
    _ordered: list[Row] | None = None  # newest first; None after a change
    _counts: Counter[str] = field(default_factory=Counter)

    def start(self) -> None:
        """Start the thread that looks."""
        threading.Thread(target=self._work, name="runs", daemon=True).start()

    def want(self) -> None:
        """Somebody watches; returns once the facts are fresh, or after a while with what there is."""
        self._asked = time.monotonic()
        self._wanted.set()
        since = max(time.time() - 3 * EVERY, self._changed)
        with self._looked:
            self._looked.wait_for(lambda: self._tried, timeout=FIRST)
            if self._looked.wait_for(lambda: self.facts.at >= since, timeout=LATER):
                self._looked.wait_for(lambda: not self._few_missing(), timeout=PATIENCE)

    def _few_missing(self) -> bool:
        return 0 < len(self._known) - len(self._rows) <= FEW

    def soon(self) -> None:
        """Something was changed through us: the next page shows it."""
        self._changed = time.time()
        self._hurry.set()
        self._wanted.set()

    def loaded(self) -> tuple[int, int]:
        """How many runs have been read, of how many there are."""
        with self._lock:
            return len(self._rows), len(self._known)

    def counts(self) -> Counter[str]:
        """Runs by state."""
        self._all()
        return self._counts

    def states(self, names: Iterable[str]) -> Counter[str]:
        """Some runs by state; a run without a row is MISSING."""
        with self._lock:
            return Counter(row.state if (row := self._rows.get(name)) else "MISSING" for name in names)

    def live(self) -> list[Row]:
        """The runs that are not final, newest first."""
        with self._lock:
            return [self._rows[name] for name in sorted(self._live, reverse=True) if name in self._rows]

    def newest(self, number: int, fits: Callable[[Row], bool] = lambda _row: True) -> list[Row]:
        """The newest runs that fit."""
        return list(islice((row for row in self._all() if fits(row)), number))

    def page(
        self,
        *,
        text: str = "",
        state: str = "",
        sort: str = "created",
        down: bool = True,
        first: int = 0,
        size: int = 50,
    ) -> Page:
        """Rows ``first`` to ``first + size`` of those with ``text`` in one of their names and ``state``."""
        loaded, known = self.loaded()
        rows = self._all()
        wanted = text.lower()
        if state:
            rows = [row for row in rows if row.state == state]
        if wanted:
            rows = [row for row in rows if wanted in searched(row)]
        found = list(rows)
        if sort != "created":
            found.sort(key=sort_key(sort), reverse=down)
        elif not down:
            found.reverse()
        return Page(found[first : first + size], len(found), loaded, known)

    def _all(self) -> list[Row]:
        """All rows, newest first; not to be changed by who asks."""
        with self._lock:
            if self._ordered is None:
                self._ordered = [self._rows[name] for name in self._known if name in self._rows]
                self._counts = Counter(row.state for row in self._ordered)
            return self._ordered

    def _work(self) -> None:
        while True:
            self._wanted.wait()
            if self._idle():
                self._wanted.clear()
                if self._idle():  # nobody came between
                    continue
            try:
                self.look()
                if self._fill(time.monotonic() + EVERY):
                    continue
            except (HpcpoolsError, OSError, ValueError) as error:
                log.warning(event("look-fail", error=error))
                self.facts.problem = one_line(str(error))
                self._told()
            self._hurry.wait(EVERY)
            self._hurry.clear()

    def _idle(self) -> bool:
        return time.monotonic() - self._asked > WATCHED

    def look(self) -> None:
        """Read what may have changed."""
        began = time.time()
        runner = engine.runner(self.config)
        slurm = engine.choose(self.config) == "slurm"
        if self.config.root.is_dir():
            seen = watch.refresh(self.config, runner if slurm else None)
            self.facts.slurm_as_of, self.facts.slurm_error = seen.as_of, seen.error
            fresh = {view.token: view for view in (*seen.views, *seen.ended)}
            live = {token for token, view in fresh.items() if not view.state.is_final}
            self._list()
            rows = [parsed(summary(self.config, view)) for view in fresh.values()]
            self._put([row for row in rows if row], live)
            self._read([name for name in self._live - live if name not in fresh])
            self._live = live
        self.facts.engine = "slurm" if slurm else "local"
        self.facts.at = began
        self.facts.problem = ""
        self._told()

    def _told(self) -> None:
        """Wake the pages that wait."""
        self._tried = True
        with self._looked:
            self._looked.notify_all()

    def _list(self) -> None:
        """The names, if a run came or went."""
        stamp = self.config.root.stat().st_mtime_ns
        # A name made within the clock's grain of the last listing changes no stamp.
        if stamp != self._stamp or time.time_ns() - stamp < 2 * 10**9:
            known = directory.tokens(self.config.root)
            there = set(known)
            with self._lock:
                for name in [name for name in self._rows if name not in there]:
                    del self._rows[name]
                self._known, self._stamp, self._ordered = known, stamp, None

    def _fill(self, until: float) -> bool:
        """Read the runs that have no row yet, newest first, a chunk at a time; True if time was up before."""
        missing = [name for name in self._known if name not in self._rows]
        unsettled = set(directory.ended_tokens(self.config.root)) if missing else set()
        for start in range(0, len(missing), CHUNK):
            chunk = missing[start : start + CHUNK]
            had = self._from_index(chunk, unsettled)
            self._read([name for name in chunk if name not in had])
            self._told()
            if time.monotonic() > until:
                return start + CHUNK < len(missing)
        return False

    def _from_index(self, names: Sequence[str], unsettled: set[str]) -> set[str]:
        """Take from the index what has ended for good; the names that it had."""
        try:
            with reader(self.config) as connection:
                answers = connection.hmget(keys.INDEX, list(names))
        except HpcpoolsError:
            return set()
        rows = []
        for name, text in zip(names, answers, strict=True):
            row = parsed(text) if isinstance(text, bytes) and name not in unsettled | self._live else None
            if row is not None and row.run == name and row.state in FINAL:
                rows.append(row)
        self._put(rows)
        return {row.run for row in rows}

    def _read(self, names: Sequence[str]) -> None:
        rows, root = [], self.config.root
        for name in names:
            try:
                rows.append(parsed(summary(self.config, read_view(RunDirectory(root, name)))))
            except (HpcpoolsError, OSError, ValueError) as error:
                rows.append(unreadable(name, error))
        self._put([row for row in rows if row])

    def _put(self, rows: Iterable[Row], live: set[str] | None = None) -> None:
        with self._lock:
            for row in rows:
                if self._rows.get(row.run) != row:
                    self._rows[row.run], self._ordered = row, None
            if live:
                new = live - set(self._known[: len(live) + 100]) - set(self._known)
                if new:
                    self._known, self._ordered = sorted((*new, *self._known), reverse=True), None
