"""The supervisor of the short pool: forks the children, watches them, and answers for whatever they held.

Owns the children's lives: start, limits, stop, and the outcome of a job whose child is dead. Refuses to start
a child in the place of one whose task, or any process of it, may still run.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator

from hpcpools.eventlog import event, log
from hpcpools.redisdb.connect import connect
from hpcpools.redisdb.outage import AWAY, told
from hpcpools.short import child, outcome, process
from hpcpools.short.board import IDLE, SAVING, Board, Running, Work
from hpcpools.short.job import HpcJob
from hpcpools.short.outcome import Reason
from hpcpools.short.place import Place
from hpcpools.short.process import Signals
from hpcpools.short.recovery import Recovery, name_prefix
from hpcpools.short.scale import Load, Scale
from hpcpools.short.tally import Tally
from hpcpools.short.watch import Command, Watch
from hpcpools.short.worker import HpcWorker

COLD_GRACE = 2.0  # seconds from the cold stop until children that still save are killed
HARD = 2.0  # seconds after its limit until a task that did not end by itself is killed
TICK = 0.5  # seconds: the longest the supervisor sleeps
SWEEP = 3.0  # seconds between two sweeps
BEAT = 15.0  # seconds between heartbeats
PATIENCE = 2.0  # seconds for one reply of Redis: meanwhile no limit is enforced
AWAY_PAUSE = 1.0  # seconds without asking a Redis that did not answer


class Supervisor:
    """Children until SIGTERM, or in a burst until the queues are empty.

    ``workers``: a fixed number of them, instead of what the config says.
    """

    def __init__(self, job_class: type[HpcJob], workers: int | None, burst: bool, grace: float) -> None:
        short = job_class.config.short
        self._scale = None if workers or burst or Scale(short).fixed else Scale(short)
        first = workers or short.workers
        lines = max(first, short.max_workers) if self._scale else first
        self._config = job_class.config
        self._job_class = job_class
        self._burst = burst
        self._grace = grace
        self._board = Board(lines)
        self._tally = Tally(lines, [entry.name for entry in job_class.catalog], short.queues)
        self._signals = Signals((signal.SIGTERM, signal.SIGINT))
        connection = connect(self._config, retries=0, reply_timeout=PATIENCE)
        prefix = name_prefix(self._config)
        self._places = [
            Place(
                line,
                HpcWorker(
                    f"{prefix}{line}-{secrets.token_hex(4)}", connection=connection, job_class=job_class
                ),
                open=line < first,
            )
            for line in range(lines)
        ]
        self._connection = connection
        self._recovery = Recovery(connection, job_class, self._tally)
        self._watch = Watch(connection, job_class, prefix)
        self._away_until = 0.0
        self._due = dict.fromkeys((self._beat, self._sweep), 0.0)
        self._stop_at = 0.0  # when the next, harder step of stopping is due
        self._step = 0  # 0 running, 1 warm, 2 cold, 3 kill

    def run(self) -> None:
        """Returns when all children have ended; on any way out, none is left."""
        process.adopt_orphans()
        with told():
            self._recovery.sweep((), first=True)
        log.info(
            event(
                "pool-start",
                workers=sum(place.open for place in self._places),
                queues=",".join(self._config.short.queues),
            )
        )
        self._due[self._sweep] = time.monotonic() + SWEEP
        try:
            while True:
                self._stop_if_asked()
                self._tend()
                if all(
                    not place.pid and (place.done or self._step or not place.open) for place in self._places
                ):
                    break
                self._talk()
                self._signals.wait(self._nap())
            self._try(lambda: self._recovery.sweep(()))
            self._try(lambda: self._watch.forget(place.worker for place in self._places))
        finally:
            for place in self._places:
                if place.pid:
                    process.kill_group(place.pid)
        log.info(event("pool-end"))

    # -- children -----------------------------------------------------------------------------------------

    def _tend(self) -> None:
        """Bury dead children with all their tasks started, answer for what they held, start new ones."""
        for place in self._places:
            if place.pid and process.has_ended(place.pid):
                self._bury(place)
            elif place.pid:
                self._limit(place)
        known = {place.pid for place in self._places}
        gone = process.end_children(known) if any(place.code is not None for place in self._places) else True
        for place in self._places:
            if place.code is not None and gone and self._try(lambda place=place: self._settle(place)):  # type: ignore[misc]
                place.code = place.killed = None
                if not place.open:
                    self._try(lambda place=place: self._watch.forget([place.worker]))  # type: ignore[misc]
            if place.free and not self._step and time.monotonic() >= place.not_before:
                self._start(place)

    def _start(self, place: Place) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._board.clear(place.line)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            child.main(
                parent, place.worker.name, place.line, self._board, self._tally, self._job_class, self._burst
            )
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)
        place.began(pid)
        self._due[self._beat] = 0.0

    def _bury(self, place: Place) -> None:
        process.kill_group(place.pid)
        code = process.reap(place.pid)
        ran = self._board.running(place.line)
        peaceful = code in (child.DONE, child.REPLACE) and not ran
        place.done = self._burst and peaceful and code == child.DONE
        place.died(code, expected=peaceful or self._board.state(place.line) != IDLE)
        if not peaceful:
            log.error(event("worker-end", worker=place.worker.name, code=code))

    def _settle(self, place: Place) -> bool:
        """What a dead child held gets its outcome, or goes back; True once that is done.

        A task that we killed, or that ended its own process, is failed with the reason. SIGKILL from anybody
        else says nothing about the task (out of memory, an administrator): it is put back, and counted.
        """
        assert place.code is not None  # noqa: S101
        ran = self._board.running(place.line)
        if not ran and place.code in (child.DONE, child.REPLACE):
            return True
        cause = outcome.cause(place.code)
        if place.killed:
            reason = place.reason if ran and ran.work == place.killed else None
        else:
            reason = None if place.code == -signal.SIGKILL else cause
        if ran and reason and not self._fail(place, ran, reason):
            return False
        name = place.worker.name
        self._recovery.recover(self._live(), only=name, count=not place.killed, cause=cause)
        return True

    def _fail(self, place: Place, ran: Running, reason: Reason) -> bool:
        try:
            if not place.worker.fail(ran.work, reason):
                return False
        except AWAY:
            raise
        except Exception as error:  # somebody changed its record while it ran; then it goes back instead
            log.error(event("settle-fail", job=ran.work.job, error=error))
        else:
            self._tally.died(place.line, place.ended - ran.since, reason.cause)
        return True

    def _limit(self, place: Place) -> None:
        running = self._board.running(place.line)
        if not running or place.killed:
            return
        if time.monotonic() > running.since + running.limit + HARD:
            self._kill(place, running.work, outcome.over(running.limit))
            return
        limit = self._config.short.memory_mb << 20
        if limit and (used := process.resident(place.pid)) > limit:
            self._kill(place, running.work, outcome.too_large(used, limit))

    def _kill(self, place: Place, work: Work, reason: Reason | None) -> None:
        place.killed, place.reason = work, reason
        process.kill_group(place.pid)

    def _live(self) -> set[str]:
        """Names whose child may still run, or whose work is being settled with more than it says itself."""
        return {place.worker.name for place in self._places if place.pid or place.code is not None}

    # -- stopping -----------------------------------------------------------------------------------------

    def _stop_if_asked(self) -> None:
        asked = sum(self._signals.counts.values())
        due = self._step and time.monotonic() >= self._stop_at
        if not (asked > self._step and self._step < 2) and not due:
            return
        self._step += 1
        patience = self._grace if self._step == 1 else COLD_GRACE
        self._stop_at = time.monotonic() + patience
        log.info(event("pool-stop", step=("warm", "cold", "kill")[min(self._step, 3) - 1], patience=patience))
        for place in self._places:
            if place.pid and self._step == 1:
                os.kill(place.pid, signal.SIGTERM)
            elif place.pid and (self._step > 2 or self._board.state(place.line) != SAVING):
                running = self._board.running(place.line)
                self._kill(place, running.work if running else Work("", "", ""), None)

    def _nap(self) -> float:
        if any(place.code is not None for place in self._places):
            return 0.05
        running = (self._board.running(place.line) for place in self._places if place.pid)
        ends = [task.since + task.limit + HARD for task in running if task]
        ends += [place.not_before for place in self._places if place.free and not self._step]
        return min([TICK, *(max(0.01, end - time.monotonic()) for end in ends)])

    # -- Redis --------------------------------------------------------------------------------------------

    def _talk(self) -> None:
        """What is done in Redis from time to time; each by itself, and nothing for a while if it is away."""
        self._try(self._obey)
        self._try(self._look_at_queues)
        for duty, period in ((self._beat, BEAT), (self._sweep, SWEEP)):
            if time.monotonic() >= self._due[duty] and self._try(duty):
                self._due[duty] = time.monotonic() + period

    def _look_at_queues(self) -> None:
        """Wake somebody for jobs that rq's tools pushed without ringing; more or fewer workers."""
        waiting = self._watch.waiting()
        idle = any(place.pid and self._board.state(place.line) == IDLE for place in self._places)
        for queue, number in waiting.items():
            if number and idle:
                queue.ring()
        if self._scale and not self._step:
            total = sum(waiting.values())
            self._resize(self._scale, total, self._watch.oldest() if total else 0.0)

    def _resize(self, scale: Scale, waiting: int, oldest: float) -> None:
        there = [place for place in self._places if place.open]
        busy = [place for place in there if place.pid and self._board.state(place.line) != IDLE]
        wanted = scale.wanted(Load(waiting, oldest, len(there), len(busy)), time.monotonic())
        if wanted == len(there):
            return
        log.info(event("pool-resize", workers=wanted, busy=len(busy), waiting=waiting, oldest=oldest))
        for place in [place for place in self._places if not place.open][: max(0, wanted - len(there))]:
            place.open, place.not_before = True, 0.0
        idle_last = sorted(there, key=lambda place: (place not in busy, place.line))
        for place in idle_last[wanted:]:
            place.open = False
            if place.pid:
                os.kill(place.pid, signal.SIGTERM)  # which lets a task that just began end

    def _beat(self) -> None:
        self._watch.beat(self._alive())
        self._tally.bring(self._connection)

    def _alive(self) -> Iterator[tuple[HpcWorker, Work | None]]:
        for place in self._places:
            if place.pid:
                running = self._board.running(place.line)
                yield place.worker, running.work if running else None

    def _sweep(self) -> None:
        self._recovery.sweep(self._live())

    def _obey(self) -> None:
        for command in self._watch.commands():
            for place in self._places:
                if place.worker.name == command.worker and place.pid:
                    self._follow(place, command)

    def _follow(self, place: Place, command: Command) -> None:
        running = self._board.running(place.line)
        if command.word == "shutdown":
            os.kill(place.pid, signal.SIGTERM)
        elif running and command.word == "kill-horse":
            self._kill(place, running.work, outcome.KILLED)
        elif running and (
            (command.word == "stop-job" and command.job == running.work.job)
            or (command.word == "stop-execution" and command.execution == running.work.execution)
        ):
            self._kill(place, running.work, outcome.STOPPED)

    def _try(self, effect: Callable[[], bool | None]) -> bool:
        if time.monotonic() < self._away_until:
            return False
        try:
            return effect() is not False
        except AWAY as error:
            log.warning(event("redis-away", error=error))
            self._away_until = time.monotonic() + AWAY_PAUSE
            return False
