"""The lane's loop: ends from disk into Redis, what Slurm lost back into its queue, waiting jobs into batches.

Owns the order of writes: a batch is durable before sbatch, an end is on disk before it is in Redis; so the
loop may be killed at any moment and goes on from the files. Refuses to run twice for one pool.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Any

from hpcpools import atomic, catalog, eventlog
from hpcpools.catalog import Catalog
from hpcpools.config import Config
from hpcpools.errors import (
    ConfigError,
    HpcpoolsError,
    RefusedError,
    SlurmUnavailableError,
)
from hpcpools.eventlog import event, log
from hpcpools.lane import filling, grouping
from hpcpools.lane.inflight import InFlight
from hpcpools.lane.worker import LaneWorker
from hpcpools.redisdb import runtime
from hpcpools.redisdb.connect import connect
from hpcpools.redisdb.outage import AWAY, delays
from hpcpools.runs import batches
from hpcpools.runs.batches import Batch, BatchDirectory, Carried
from hpcpools.runs.directory import secure_root
from hpcpools.schema import LANE_QUEUE
from hpcpools.short import job
from hpcpools.short.process import Signals
from hpcpools.slurm import submit as slurm
from hpcpools.training import engine, watch

TICK = 1.0  # seconds between two looks at the end markers
BEAT = 15.0  # seconds between heartbeats
SWEEP = 60.0  # seconds between two searches for jobs that fell between claim and batch
KEEP = 7 * 86400.0  # seconds that a settled batch, with its logs, stays on disk
LOCK_NAME = "lane.lock"


def run(config: Config) -> int:
    """Run the lane until SIGTERM or SIGINT; returns 0. What it carries goes on in Slurm meanwhile.

    Call it in the main thread. Raises ConfigError without a partition, SlurmUnavailableError without Slurm,
    RefusedError if another lane of this pool runs here, RedisUnavailableError, PermissionsError.
    """
    eventlog.to_stderr()
    if not config.has_lane:
        raise ConfigError(f"{config.file}: lane.partition is empty", hint="name a partition: docs/lane.md")
    if engine.choose(config) != "slurm":
        raise SlurmUnavailableError("there is no Slurm here", hint="the lane needs sbatch, srun and squeue")
    runtime.secure_directory(config.runtime_dir)
    secure_root(config.root)
    with _only_one(config):
        return Lane(config, catalog.load(config)).run()


class Lane:
    """The state of one lane: its open batches, and when what is due next."""

    def __init__(self, config: Config, listed: Catalog) -> None:
        self.config = config
        self.listed = listed
        self.runner = engine.runner(config)
        self.overflow = overflow_queues(config)
        self.worker = LaneWorker(connect(config), job.bind(config, listed), (LANE_QUEUE, *self.overflow))
        self.open: dict[str, InFlight] = {}
        times = atomic.read_json(batches.lane_folder(config.root) / "times.json")
        self.times: dict[str, list[float]] = times if isinstance(times, dict) else {}
        self._signals = Signals((signal.SIGTERM, signal.SIGINT))
        self._due = {"beat": 0.0, "sweep": 0.0, "fill": 0.0}
        self._adopted = False
        self._forgotten: set[tuple[str, str, str]] = set()
        self._shutdown = False
        self._seen = 0.0  # the newest answer of Slurm that was taken in

    def run(self) -> int:
        """The loop."""
        log.info(event("lane-start", partition=self.config.lane.partition))
        waits = delays(TICK)
        while not (self._shutdown or any(self._signals.counts.values())):
            try:
                self.tick()
            except (*AWAY, HpcpoolsError, OSError) as error:  # Redis, Slurm or the file system is away
                log.error(event("lane-fail", error=error))
                self._due["sweep"] = 0.0  # what was just claimed may be in no batch
                self._signals.wait(next(waits))
                continue
            waits = delays(TICK)
            self._signals.wait(TICK)
        log.info(event("lane-end", batches=len(self.open)))
        return 0

    def tick(self) -> None:
        """One look at everything that is due."""
        if not self._adopted:
            self._adopt()
        if self._is_due("beat", BEAT):
            self.beat()
        self._stop_asked()
        for batch in list(self.open.values()):
            self.collect(batch)
        if self.open:
            self._ask_slurm()
        if self._is_due("sweep", SWEEP):
            self._sweep()
        filling.fill(self)

    # -- what comes back ----------------------------------------------------------------------------------

    def collect(self, batch: InFlight) -> None:
        """Bring the ends on disk into Redis; close the batch if that were the last ones."""
        for number in sorted(batch.place.ended() - batch.settled):
            carried, end = batch.batch.jobs[number], batch.place.ending(number)
            if end is None or not self._settle(batch, carried, {**end, "log": str(batch.place.log(number))}):
                continue
            batch.settled.add(number)
            if end["outcome"] == "finished":
                grouping.remember(self.times, carried.task, float(end.get("seconds", 0.0)))
        if len(batch.settled) == len(batch.batch.jobs):
            self._close(batch)

    def _settle(self, batch: InFlight, job: Carried, end: dict[str, Any]) -> bool:
        """One end into Redis; False if it is not time yet, or must be tried again."""
        if end["outcome"] in ("finished", "failed", "stopped"):
            return self.worker.finish(job.queue, job.id, job.execution, {**end, **batch.ids})
        if time.time() < float(end.get("at", 0.0)) + float(end.get("fence", 0.0)):
            return False
        count, reason = bool(end.get("count")), str(end.get("reason", ""))
        return self.worker.give_back(
            job.queue, job.id, job.execution, count=count, reason=reason, **batch.ids
        )

    def _close(self, batch: InFlight) -> None:
        token = batch.place.token
        unneeded = batch.job_id and not batch.over
        if unneeded and not any(batch.place.started(n) for n in range(len(batch.batch.jobs))):
            with contextlib.suppress(HpcpoolsError):
                slurm.scancel(self.runner, [batch.job_id])
        batch.place.close()
        del self.open[token]
        self._due["beat"] = 0.0  # busy or not has changed
        atomic.write_json(batches.lane_folder(self.config.root) / "times.json", self.times)
        log.info(event("batch-end", **batch.ids, jobs=len(batch.batch.jobs)))

    def _ask_slurm(self) -> None:
        """Through the one cache that all readers of this pool share; asked only as often as they all may."""
        poll = watch.load_poll(self.config.root)
        if time.time() >= max(
            poll.at + (poll.interval or float(self.config.slurm.poll_interval)), poll.next_try
        ):
            watch.refresh(self.config, self.runner)
            poll = watch.load_poll(self.config.root)
        if poll.at <= self._seen:
            return
        self._seen = poll.at
        for batch in self.open.values():
            known = batch.over
            batch.look(self.config, poll)
            if batch.over:
                batch.give_up()
            if batch.over != known:
                log.info(event("slurm-end", **batch.ids, state=batch.over))

    # -- what is asked of us ------------------------------------------------------------------------------

    def _stop_asked(self) -> None:
        jobs, self._shutdown = self.worker.asked_to_stop()
        for batch in self.open.values() if jobs else ():
            for number, carried in batch.unsettled:
                if carried.id in jobs and not batch.place.withdraw(
                    number, "stopped", reason="stopped by user"
                ):
                    batch.place.stop(number)
                    log.info(event("stop", job=carried.id, **batch.ids))

    def beat(self) -> None:
        """Heartbeats; what Redis has forgotten is finished on disk alone, and an heir's batches are his."""
        for token, batch in list(self.open.items()):
            if set(self.worker.holders(batch.held).values()) - {self.worker.name}:
                log.warning(event("taken", **batch.ids, hint="this lane was silent, another took it up"))
                del self.open[token]
        lost = self.worker.beat(self.held())
        for _queue, job_id, _execution in lost - self._forgotten:
            log.warning(event("forgotten", job=job_id, hint="Redis does not know it; it ends on disk only"))
        self._forgotten = lost

    def held(self) -> set[tuple[str, str, str]]:
        """All that the open batches hold."""
        return {each for batch in self.open.values() for each in batch.held}

    # -- after a restart, and after another lane's end ------------------------------------------------------

    def _adopt(self) -> set[tuple[str, str, str]]:
        """Take up the batches that an earlier process of this lane left, and those of lanes that are gone.

        What the batches of others hold.
        """
        others: set[tuple[str, str, str]] = set()
        for token in batches.live(self.config.root):
            place = BatchDirectory(self.config.root, token)
            batch = None if token in self.open else self._read(place)
            if batch is None:
                continue
            adopted = InFlight(place, batch, place.job_id())
            holders = self.worker.holders(adopted.held)
            if not self._inherits(batch, holders):
                others |= adopted.held
                continue
            ended = place.ended()  # whose end is on disk and who is not held: that end was taken in
            adopted.settled |= {
                number
                for number, job in adopted.unsettled
                if number in ended and (job.queue, job.id, job.execution) not in holders
            }
            self.open[token] = adopted
            log.info(event("adopt", **adopted.ids, jobs=len(adopted.unsettled)))
        self._adopted = True
        return others

    def _inherits(self, batch: Batch, holders: Mapping[tuple[str, str, str], str]) -> bool:
        """Whether a batch is ours from now on; one whose jobs this Redis does not know is its maker's."""
        lanes = set(holders.values()) - {self.worker.name}
        return (batch.lane == self.worker.name or bool(holders)) and all(
            self.worker.inherit(lane, [each for each, name in holders.items() if name == lane])
            for lane in lanes
        )

    def _read(self, place: BatchDirectory) -> Batch | None:
        try:
            return place.read()
        except FileNotFoundError:  # no sbatch yet, if ever: its jobs come back as strays
            place.drop_stale(time.time())
        except RefusedError:  # a newer version's: the lane does not run beside it
            raise
        except HpcpoolsError as error:  # as above, once the job that may run them is cancelled
            log.error(event("batch-refused", batch=place.token, error=error))
            slurm.scancel(self.runner, [place.job_id()] if place.job_id() else [])
            place.close()
        return None

    def _sweep(self) -> None:
        others = self._adopt()
        for queue, job_id, execution in self.worker.strays(self.held() | others):
            self.worker.give_back(queue, job_id, execution, count=False, reason="in no batch")
        if removed := batches.prune(self.config.root, time.time() - KEEP):
            log.info(event("prune", batches=removed))

    def _is_due(self, what: str, every: float) -> bool:
        if time.monotonic() < self._due[what]:
            return False
        self._due[what] = time.monotonic() + every
        return True

    def wait_with(self, seconds: float) -> None:
        """Submit nothing for a while."""
        self._due["fill"] = time.monotonic() + seconds

    @property
    def may_fill(self) -> bool:
        """Whether something may be submitted now."""
        return time.monotonic() >= self._due["fill"]


def overflow_queues(config: Config) -> tuple[str, ...]:
    """The queues whose jobs the lane takes when they wait too long, or are too many."""
    if config.lane.overflow_after is None and config.lane.overflow_above is None:
        return ()
    named = config.lane.overflow_queues
    return named or tuple(queue for queue in config.short.queues if queue != "maintenance")


@contextlib.contextmanager
def _only_one(config: Config) -> Iterator[None]:
    path = config.runtime_dir / LOCK_NAME
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise RefusedError(
            f"another lane runs here (it holds {path})", hint="`hpcpools ps` shows it"
        ) from None
    try:
        yield
    finally:
        os.close(fd)
