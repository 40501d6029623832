"""The process that runs tasks, one after the other, in itself: claim, judge, run, write how it ended.

Owns the loop and the soft limit of a task. Refuses to run what is forged or unlisted, to leave a job without
an outcome whatever Redis does, and to run a second task where the first left something behind.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from rq.timeouts import JobTimeoutException
from rq.utils import now

from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError, RedisUnavailableError, RefusedError
from hpcpools.eventlog import event, log, while_in
from hpcpools.redisdb.connect import connect
from hpcpools.redisdb.outage import AWAY, delays
from hpcpools.short import outcome, printed, process
from hpcpools.short.board import Board, Work
from hpcpools.short.finish import Steps, Success
from hpcpools.short.job import HpcJob, HpcQueue, Json, bell_key
from hpcpools.short.residue import Residue, flush
from hpcpools.short.scripts import Claim, waited
from hpcpools.short.tally import Tally
from hpcpools.short.worker import HpcWorker, new_execution_id

if TYPE_CHECKING:
    from redis import Redis

REST = 5  # seconds an idle child waits for the bell; the supervisor rings it for jobs pushed without ringing
TOLD = 1.0  # seconds from which on the end of a task is worth a line in the log
DONE, REPLACE, BROKEN = 0, 100, 70  # exit codes: asked to end, or a burst is over; start another one; a bug


T = TypeVar("T")


class _WokenError(BaseException):
    """SIGTERM came while nothing was held."""


def main(
    parent: int, name: str, line: int, board: Board, tally: Tally, job_class: type[HpcJob], burst: bool
) -> NoReturn:
    """Called in a fork of the supervisor ``parent``; ends the process."""
    code = BROKEN
    try:
        process.die_with_parent(parent)
        os.setpgid(0, 0)
        process.forget_signals()
        with contextlib.suppress(OSError):  # as trainings do: relative paths are the project's
            os.chdir(job_class.config.folder)
        if nice := job_class.config.short.nice:
            os.nice(nice)
        code = Child(name, line, board, tally, job_class).serve(burst=burst)
    except HpcpoolsError as error:
        log.error(event("worker-fail", worker=name, error=error))
        code = error.exit_code
    except BaseException:
        log.error(event("worker-fail", worker=name, trace=traceback.format_exc()[-2000:]))
    finally:
        flush()
        os._exit(code)


class Child:
    """One process of worker ``name``; ``line`` is its place on board and tally."""

    def __init__(self, name: str, line: int, board: Board, tally: Tally, job_class: type[HpcJob]) -> None:
        self._short = job_class.config.short
        self._class = job_class
        self._name = name
        self._line = line
        self._board = board
        self._tally = tally
        self._connection = _connected(job_class.config)
        self._steps = Steps(self._connection, name)
        self._queues: Sequence[str] = self._short.queues
        self._bells = [bell_key(queue) for queue in self._queues]
        self._stop = self._resting = self._armed = False
        self._jobs = 0
        self._job = ""  # the id of the one that runs, or of the last one until another is asked for
        self._pid = os.getpid()
        process.adopt_orphans()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor
        signal.signal(signal.SIGTERM, self._asked)
        signal.signal(signal.SIGALRM, self._alarm)
        process.reseed()
        while_in(lambda: self._job)
        printed.capture()
        self._memory = process.Memory()
        self._residue = Residue()

    def serve(self, *, burst: bool) -> int:
        """Run jobs until told to stop; with ``burst``, until there are none. An exit code."""
        claim = None
        try:
            while not self._stop:
                claim = claim or self._claim()
                if claim is None:
                    if burst:
                        break
                    self._rest(lambda: self._connection.blpop(self._bells, REST))
                    continue
                claim, left = self._work_on(claim)
                if left:
                    log.info(event("worker-replace", worker=self._name, why=left))
                    return REPLACE
        except _WokenError:
            pass
        return DONE

    # -- between jobs -------------------------------------------------------------------------------------

    def _claim(self) -> Claim | None:
        self._job = ""
        for wait in delays():
            try:
                return self._took(self._steps.claim(new_execution_id(), self._queues))
            except AWAY as error:
                log.warning(event("redis-away", worker=self._name, error=error))
            self._rest(lambda wait=wait: time.sleep(wait))  # type: ignore[misc]
        return None

    def _took(self, claim: Claim | None) -> Claim | None:
        if claim and self._short.order == "round_robin":
            after = self._queues.index(claim.queue) + 1
            self._queues = (*self._queues[after:], *self._queues[:after])
        return claim

    def _rest(self, wait: Callable[[], Any]) -> None:
        """Wait with empty hands, so that SIGTERM may end it anywhere."""
        self._board.clear(self._line)
        self._resting = True
        try:
            if self._stop:
                raise _WokenError
            wait()
        except AWAY as error:
            log.warning(event("redis-away", worker=self._name, error=error))
        finally:
            self._resting = False

    def _asked(self, _number: int, _frame: FrameType | None) -> None:
        self._stop = True
        if self._resting:
            raise _WokenError

    # -- one job ------------------------------------------------------------------------------------------

    def _work_on(self, claim: Claim) -> tuple[Claim | None, str]:
        """Run it and write how it ended. The next claim, if any; why this process must take no other job."""
        job = self._class.claimed(claim.job_id, claim.fields, self._connection, claim.queue)
        work = Work(claim.queue, claim.job_id, claim.execution_id)
        try:
            task = job.entry().name
        except RefusedError as refusal:
            self._board.save(self._line)
            self._fail(work, str(refusal))
            return None, ""
        self._job = job.id
        self._tally.waited(self._line, claim.queue, waited(claim.fields))
        self._tally.starts(self._line, task)
        began = time.monotonic()
        value, error = self._run(job, work)
        took = time.monotonic() - began
        late = isinstance(error, JobTimeoutException)
        cause = "" if error is None else outcome.LIMIT if late else outcome.RAISED
        self._tally.ran(self._line, task, took, cause=cause)
        left = self._residue.found() or self._spent()
        flush()
        if error is None:
            following = self._succeed(claim, job, value, go_on=not left and not self._stop)
            if took >= TOLD:
                log.info(event("end", job=job.id, task=task, seconds=took))
            return following, left
        reason = outcome.over(job.timeout or 0) if late else outcome.describe(error)
        self._fail(work, reason, f"{outcome.trace(error)}{reason}\n", vars(job).get("meta"))
        return None, left

    def _run(self, job: HpcJob, work: Work) -> tuple[bytes, BaseException | None]:
        """What the task returned, as JSON, or what it raised."""
        limit = int(job.timeout or HpcQueue.DEFAULT_TIMEOUT)
        self._board.run(self._line, work, limit)
        self._jobs += 1
        try:
            try:
                self._armed = True
                signal.alarm(limit)
                value = job.perform()
            finally:
                self._armed = False
                signal.alarm(0)
                if os.getpid() != self._pid:  # the task forked, and its copy came back here
                    os._exit(BROKEN)
            return outcome.check_result(value), None
        except BaseException as error:
            return b"", error
        finally:
            self._board.save(self._line)

    def _alarm(self, _number: int, _frame: FrameType | None) -> None:
        if self._armed:
            raise JobTimeoutException

    def _spent(self) -> str:
        if self._jobs >= self._short.max_jobs:
            return f"{self._jobs} jobs done"
        grown = self._memory.growth() >> 20
        return f"grown by {grown} MiB" if grown > self._short.max_rss_mb else ""

    # -- outcomes, however long Redis is away ---------------------------------------------------------------

    def _succeed(self, claim: Claim, job: HpcJob, value: bytes, *, go_on: bool) -> Claim | None:
        success = Success.of(claim, value, job.result_ttl or 0)
        execution = new_execution_id()
        plain, following = self._insist(
            lambda: self._steps.finish(success, execution, self._queues, go_on=go_on)
        )
        if plain:
            return self._took(following)
        job._result = Json.loads(value)
        job.ended_at = now()
        work = Work(claim.queue, claim.job_id, claim.execution_id)
        self._insist(lambda: self._worker().succeed(work, job))
        return None

    def _fail(self, work: Work, reason: str, trace: str = "", meta: dict[str, Any] | None = None) -> None:
        self._insist(lambda: self._worker().fail(work, reason, trace, meta))

    def _insist(self, write: Callable[[], T]) -> T:
        """Again and again until ``write`` returns something true."""
        for wait in delays():
            try:
                if done := write():
                    return done
            except AWAY as error:
                log.warning(event("redis-away", worker=self._name, error=error))
            time.sleep(wait)
        raise AssertionError

    def _worker(self) -> HpcWorker:
        return HpcWorker(self._name, connection=self._connection, job_class=self._class)


def _connected(config: Config) -> Redis:
    """A client, once Redis answers; until then SIGTERM simply ends this process."""
    for wait in delays():
        try:
            return connect(config)
        except RedisUnavailableError as error:
            log.warning(event("redis-away", error=error))
        time.sleep(wait)
    raise AssertionError
