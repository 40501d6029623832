"""The thread behind the screen: looks every two seconds, and follows the log of the run that is selected.

A look that costs more than a fiftieth of a core is taken less often, every 20 s at least. Refuses to hold up
the end of the program: the thread is a daemon's, and a slow Slurm or file server blocks nobody but itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError
from hpcpools.runs.directory import RunDirectory, open_run
from hpcpools.runs.view import read_view
from hpcpools.short import views
from hpcpools.textsafe import escape
from hpcpools.top.facts import Facts, Look
from hpcpools.training.logs import LogReader

EVERY = 2.0  # seconds between two looks
SHARE = 0.02  # of one core for looks, ...
SLOWEST = 20.0  # ... but not longer than so many seconds between two
TAIL = 64 * 1024  # bytes of each log file that a pane begins with


@dataclass(frozen=True)
class Piece:
    """New text of the log of ``name``; ``first``: it begins here."""

    name: str
    text: str
    first: bool


class Watcher:
    """Calls ``seen`` with each look, and ``said`` with each piece of the chosen log, in its own thread."""

    def __init__(self, config: Config, seen: Callable[[Facts], None], said: Callable[[Piece], None]) -> None:
        self._config, self._seen, self._said = config, seen, said
        self._look = Look(config)
        self._last = Facts()
        self._wake = threading.Event()
        self._stopped = False
        self._due = False
        self._jobs = False
        self._chosen = ""
        self._reader: LogReader | None = None
        self._told = ""

    def start(self) -> None:
        """Begin to look."""
        threading.Thread(target=self._work, name="top", daemon=True).start()

    def stop(self) -> None:
        """Look no more; a look that is on its way is not waited for."""
        self._stopped = True
        self._wake.set()

    def choose(self, name: str) -> None:
        """Follow the log of this run, or tell of this short job; "" for none."""
        if name != self._chosen:
            self._chosen = name
            self._wake.set()

    def soon(self, *, jobs: bool | None = None) -> None:
        """Look at once: something was changed. ``jobs``: whether short jobs are wanted from now on."""
        self._jobs = self._jobs if jobs is None else jobs
        self._due = True
        self._wake.set()

    def _work(self) -> None:
        following, before = 0.0, 0.0
        while not self._stopped:
            if self._due or time.monotonic() >= following:
                self._due = False
                begin = time.thread_time()
                self._seen(self._facts())
                cost = time.thread_time() - begin
                # Of two looks the cheaper one counts: the first imports much.
                following = time.monotonic() + max(EVERY, min(SLOWEST, min(cost, before) / SHARE))
                before = cost
            self._follow(self._chosen)
            self._wake.wait(0.0 if self._due else max(0.05, following - time.monotonic()))
            self._wake.clear()

    def _facts(self) -> Facts:
        try:
            self._last = self._look(jobs=self._jobs)
        except Exception as error:  # a bug of ours: what was seen stays, with its age
            problem = f"the last look failed: {type(error).__name__}: {error}"
            return replace(self._last, problems=(*self._last.problems, problem))
        return self._last

    def _follow(self, name: str) -> None:
        first = name != self._told
        if first:
            self._told, self._reader = name, None
        try:
            text = (
                self._run_log(name)
                if name.startswith("hp-")
                else self._job_words(name)
                if first and name
                else ""
            )
        except (HpcpoolsError, OSError) as error:
            text = f"{error}\n" if first else ""
        if first or text:
            self._said(Piece(name, text, first))

    def _run_log(self, name: str) -> str:
        if self._reader is None:
            run: RunDirectory = open_run(self._config.root, name)
            self._reader = LogReader(run, None, ("log.out", "log.err"), tail=TAIL)
            view = read_view(run)
            begun = "" if view.attempts else f"{view.state.value}: {view.reason or 'it has not started'}\n"
            return clean(self._reader.read() or begun)
        return clean(self._reader.read())

    def _job_words(self, name: str) -> str:
        found = views.show(self._config, name)
        facts = [f"{found.task} on {found.job.queue}: {found.job.state}"]
        facts += [f"{key} = {value!r}" for key, value in found.arguments.items()]
        facts += [f"result {found.result!r}"] if found.result is not None else []
        return clean("\n".join([*facts, found.trace or found.reason]) + "\n")


def clean(text: str) -> str:
    """Text of a job for a terminal; what progress bars rewrite becomes lines."""
    return escape(text.replace("\r\n", "\n").replace("\r", "\n"))
