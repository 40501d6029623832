"""One worker: claims a job, runs it in a process of its own, writes how it ended, whatever Redis does.

Owns the loop, the limits of a task and its outcome. Refuses to run what is forged or unlisted, and to leave
a job without an outcome: a task that is killed, hangs, or returns no JSON is failed with the reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from rq import Worker
from rq.exceptions import NoSuchJobError
from rq.executions import Execution
from rq.queue import Queue
from rq.timeouts import JobTimeoutException
from rq.utils import now, utcformat
from rq.worker.base import WorkerStatus

from hpcpools.errors import RefusedError
from hpcpools.eventlog import event, log
from hpcpools.redisdb.outage import AWAY, delays
from hpcpools.short import outcome, process
from hpcpools.short.job import HpcJob, HpcQueue, Json, bell_key
from hpcpools.short.process import Board, Signals
from hpcpools.short.scripts import LEASE, Claim, Scripts, wip_key

if TYPE_CHECKING:
    from redis import Redis

POLL = 0.5  # seconds: an idle worker looks by itself this often, for jobs pushed without ringing
WATCH = 0.25  # seconds between two looks at a running task
BEAT = 15.0  # seconds between heartbeats
HARD = 2.0  # seconds after its limit until a task that did not end by itself is killed
COMMANDS_PAUSE = 5.0  # seconds without looking for commands after Redis did not answer
COLD = signal.SIGQUIT  # kill the task, put the job back, end; SIGTERM: finish the task first


class HpcWorker(Worker):
    """An rq worker with its own loop; ``line`` is its place on the board it shares with the supervisor."""

    queue_class: type[Queue] = HpcQueue

    def __init__(
        self, name: str, *, connection: Redis, job_class: type[HpcJob], board: Board, line: int
    ) -> None:
        short = job_class.config.short
        super().__init__(
            [HpcQueue(queue, connection=connection, job_class=job_class) for queue in short.queues],
            name=name,
            connection=connection,
            job_class=job_class,
            serializer=Json,
            worker_ttl=LEASE,
            log_job_description=False,
        )
        self.log_result_lifespan = False
        self._class = job_class
        self._names = list(short.queues)
        self._board = board
        self._line = line
        self._scripts = Scripts(connection)
        self._signals = Signals((signal.SIGTERM, COLD))
        self._next_beat = 0.0
        self._next_commands = 0.0

    def _set_connection(self, connection: Redis) -> Redis:
        return connection  # rq would raise its reply timeout to minutes

    def serve(self, *, burst: bool = False) -> None:
        """Run jobs until told to stop; with ``burst``, until there are none."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor
        self.register_birth()  # type: ignore[no-untyped-call]
        self.pubsub = self.connection.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        self.pubsub.subscribe(self.pubsub_channel_name)
        waits = delays()
        while not self._stopping():
            try:
                self._beat(None)
                self._read_commands("")
                claim = self._scripts.claim(self.name, os.urandom(16).hex(), self._names)
                if claim is None:
                    if burst:
                        break
                    self._rest()
                waits = delays()
            except AWAY as error:
                log.warning(event("redis-away", worker=self.name, error=error))
                self._signals.wait(next(waits))
                continue
            if claim is not None:
                self._work_on(claim)
        with contextlib.suppress(*AWAY):
            self.register_death()  # type: ignore[no-untyped-call]

    def _stopping(self) -> bool:
        return self._stop_requested or any(self._signals.counts.values())

    def _rest(self) -> None:
        if self._state != WorkerStatus.IDLE:
            self.set_state(WorkerStatus.IDLE)
        self.connection.blpop([bell_key(queue) for queue in self._names], POLL)

    # -- one job ------------------------------------------------------------------------------------------

    def _work_on(self, claim: Claim) -> None:
        self._state = WorkerStatus.BUSY  # the claim wrote that
        execution = Execution(claim.execution_id, claim.job_id, self.connection, worker_name=self.name)
        job = self._class(claim.job_id, connection=self.connection)
        job.restore(claim.fields)
        job.came_from(claim.queue)
        try:
            task = job.entry().name
        except RefusedError as error:
            self._settle(job, execution, str(error))
            return
        log.info(event("start", job=job.id, task=task, queue=job.origin))
        self._fork(job, execution)
        why = self._watch(job, execution)
        written = self._board.saving(self._line)  # and then it exits with 0
        code = self._end_group()
        if self._signals.counts[COLD] and not why:
            self._put_back(job, execution)
        elif why or code or not written:
            self._settle(job, execution, why or outcome.cause(code))
        else:
            log.info(event("end", job=job.id, task=task))

    def _fork(self, job: HpcJob, execution: Execution) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._be_the_task(parent, job, execution)
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)
        self._horse_pid = pid

    def _watch(self, job: HpcJob, execution: Execution) -> str:
        """Wait for the task's process; why we killed it, or an empty text."""
        limit = job.timeout or self.queue_class.DEFAULT_TIMEOUT
        deadline = time.monotonic() + limit + HARD
        while not process.has_ended(self._horse_pid):
            self._signals.wait(WATCH)
            with contextlib.suppress(*AWAY):
                self._beat((job, execution))
                if self._read_commands(job.id):
                    return outcome.STOPPED
            if self._signals.counts[COLD]:
                break
            if time.monotonic() > deadline and not self._board.saving(self._line):
                return outcome.over(limit)
        return ""

    def _end_group(self) -> int:
        """End the task's process and all it left in its group; its exit code."""
        process.kill_group(self._horse_pid)
        while not process.has_ended(self._horse_pid):
            self._signals.wait(WATCH)
        self._board.write(self._line, 0)
        pid, self._horse_pid = self._horse_pid, 0
        return process.reap(pid)

    # -- outcomes -----------------------------------------------------------------------------------------

    def _settle(self, job: HpcJob, execution: Execution, reason: str, trace: str = "") -> None:
        """Write the failure, or the next try, however long Redis is away."""
        log.warning(event("fail", job=job.id, queue=job.origin, reason=reason))

        def write() -> None:
            try:
                fresh = self._class.load(job.id, self.connection).came_from(job.origin)
            except NoSuchJobError:
                self._put_back(job, execution)  # which then only forgets it
                return
            fresh.ended_at = now()
            self._stopped_job_id = job.id if reason == outcome.STOPPED else None
            queue = HpcQueue(job.origin, self.connection, job_class=self._class)
            self.handle_job_failure(fresh, queue, exc_string=trace or reason, execution=execution)

        self._persist(job, execution, write)

    def _put_back(self, job: HpcJob, execution: Execution) -> None:
        log.warning(event("put-back", job=job.id, queue=job.origin))
        with contextlib.suppress(*AWAY):  # the supervisor sees to it later
            self._scripts.put_back(job.origin, job.id, execution.id, self.name, count=False)

    def _persist(self, job: HpcJob, execution: Execution, write: Callable[[], None]) -> None:
        for wait in delays():
            try:
                if not self._holds(execution, job):
                    return
                write()
                if not self._holds(execution, job):
                    return
            except AWAY as error:
                log.warning(event("redis-away", worker=self.name, job=job.id, error=error))
            if self._signals.counts[COLD]:
                return
            time.sleep(wait)

    def _holds(self, execution: Execution, job: HpcJob) -> bool:
        return self.connection.zscore(wip_key(job.origin), execution.composite_key) is not None

    # -- the task's own process ---------------------------------------------------------------------------

    def _be_the_task(self, parent: int, job: HpcJob, execution: Execution) -> NoReturn:
        code = 1
        try:
            process.die_with_parent(parent)
            os.setpgid(0, 0)
            self._board.write(self._line, os.getpid())
            process.forget_signals()
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            self._is_horse = True
            _reseed()
            self._run(job, execution)
            code = 0
        except BaseException:
            log.error(event("crash", job=job.id, trace=traceback.format_exc()[-2000:]))
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _run(self, job: HpcJob, execution: Execution) -> None:
        limit = int(job.timeout or self.queue_class.DEFAULT_TIMEOUT)
        try:
            with self.death_penalty_class(limit, JobTimeoutException):
                value = job.perform()
            outcome.check_result(value)
        except BaseException as error:
            self._board.write(self._line, os.getpid(), saving=True)
            reason = (
                outcome.over(limit) if isinstance(error, JobTimeoutException) else outcome.describe(error)
            )
            self._settle(job, execution, reason, f"{outcome.trace(error)}{reason}\n")
            return
        self._board.write(self._line, os.getpid(), saving=True)
        job._result = value
        job.ended_at = now()
        queue = HpcQueue(job.origin, self.connection, job_class=self._class)

        def write() -> None:
            self.handle_job_success(job, queue, queue.started_job_registry, execution)

        self._persist(job, execution, write)

    # -- signs of life ------------------------------------------------------------------------------------

    def _beat(self, running: tuple[HpcJob, Execution] | None) -> None:
        if time.monotonic() < self._next_beat:
            return
        self._next_beat = time.monotonic() + BEAT
        self.last_heartbeat = now()
        with self.connection.pipeline() as pipe:
            pipe.hset(self.key, mapping=self.serialize())
            pipe.expire(self.key, LEASE)
            pipe.sadd("rq:workers", self.key)
            if running:
                job, execution = running
                pipe.expire(self.executions_key, LEASE + 60)
                pipe.hset(execution.key, mapping=execution.serialize())
                execution.heartbeat(job.started_job_registry, LEASE, pipeline=pipe)
                pipe.hset(job.key, "last_heartbeat", utcformat(now()))
            pipe.execute()

    def _read_commands(self, job_id: str) -> bool:
        """rq's commands shutdown, stop-job and stop-execution; True if ``job_id`` is to be stopped."""
        if time.monotonic() < self._next_commands or self.pubsub is None:
            return False
        stop = False
        self._next_commands = time.monotonic() + COMMANDS_PAUSE
        while message := self.pubsub.get_message(timeout=0):
            with contextlib.suppress(ValueError, TypeError, AttributeError):
                command = json.loads(message["data"])
                if command.get("command") in ("stop-job", "stop-execution"):
                    stop |= command.get("job_id") == job_id
                elif command.get("command") == "shutdown":
                    self._stop_requested = True
        self._next_commands = 0.0
        return stop


def _reseed() -> None:
    """Each task its own random numbers, although all are forked from the same memory."""
    random.seed()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
