"""The scheduler service: fires each due slot of the declared schedules once, carried by rq-scheduler.

Owns the one use of rq_scheduler, and the move of RQ's own delayed jobs (retries with a delay, enqueue_in)
into their queues. Refuses to write anything while another scheduler holds the lease.
"""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from msgspec.structs import replace
from rq_scheduler import Scheduler

from hpcpools import catalog
from hpcpools.config import Config
from hpcpools.errors import RedisUnavailableError
from hpcpools.eventlog import event, log, to_stderr
from hpcpools.redisdb import keys, outage
from hpcpools.redisdb.connect import connect
from hpcpools.short import declared, slots, timetable
from hpcpools.short.job import HpcJob, HpcQueue, bind
from hpcpools.short.lease import Lease, LeaseLostError
from hpcpools.short.plan import Plan, entry_id, plans, served
from hpcpools.short.process import Signals
from hpcpools.short.timetable import Record

if TYPE_CHECKING:
    from redis import Redis
    from redis.client import Pipeline

POLL = 1.0  # seconds between two ticks at most; a slot that is due sooner is woken for
BATCH = 100  # delayed jobs moved per queue and tick, so that a flood cannot outlast the lease
SLOT_TTL = 86400  # seconds a fired slot is remembered, against clocks set back
LONGEST_PAUSE = 2.0  # seconds between two tries to reach Redis


class HpcScheduler(Scheduler):  # type: ignore[misc]  # rq_scheduler has no types
    """rq-scheduler with our jobs, a lease with an owner, a fixed grid, and files as the truth.

    rq-scheduler's sorted set carries one entry per schedule, scored with its next slot; what is fired is
    what config and commands declare, so nothing that stands in Redis can make it run something else.
    """

    scheduler_lock_key = keys.SCHEDULER_LEASE

    def __init__(self, config: Config, known: catalog.Catalog, connection: Redis) -> None:
        self.job: type[HpcJob] = bind(config, known)
        super().__init__(
            "maintenance", interval=POLL, connection=connection, job_class=self.job, queue_class=HpcQueue
        )
        self.redis = connection
        self.lease = Lease(connection)
        self.config, self.known = config, known
        self.table = declared.Table()
        self.plans: dict[str, Plan] = {}
        self.queues = {
            name: HpcQueue(name, connection=connection, job_class=self.job) for name in config.queues
        }
        self._next: dict[str, int] = {}
        self._read_at = float("-inf")
        self._holder = ""

    def acquire_lock(self) -> bool:
        """Take or keep the lease; True if it is ours."""
        held = self.lease.take()
        if self.lease.holder != self._holder:
            self._holder = self.lease.holder
            log.info(event("lead" if held else "standby", holder=self._holder))
        return held

    def remove_lock(self) -> None:
        """Give the lease back, if it is ours."""
        if self.lease.release():
            log.info(event("release"))

    def tick(self) -> float:
        """Do all that is due now; returns the seconds until the next tick."""
        if not self.acquire_lock():
            return POLL
        try:
            if not self.table.entries:
                self.read()
            if not self.table.entries:
                return POLL  # nobody can tell what is declared
            self.enqueue_jobs()
            self.reassert()
            more = self.enqueue_delayed()
        except LeaseLostError:
            log.warning(event("lease-lost"))
            return POLL
        self.read()  # after what is due: a slow disk makes no firing late
        wait = min(self._next.values(), default=float("inf")) - self.lease.clock()
        return 0.0 if more else min(POLL, max(0.001, wait))

    def read(self) -> None:
        """Take over what config and commands declare, at most once a poll; says what it cannot serve."""
        if time.monotonic() - self._read_at < POLL:
            return
        self._read_at = time.monotonic()
        try:
            table = declared.read(self.config)
        except OSError as error:  # a file system that is away: what is known goes on
            log.warning(event("unread", error=error))
            return
        if table == self.table:
            return
        found, problems = served(self.config, self.known, table)
        self.table, self.plans = table, {plan.id: plan for plan in found}
        self._next = {id_: due for id_, due in self._next.items() if id_ in self.plans}
        for problem in problems:
            log.warning(event("unserved", problem=problem))

    def reassert(self) -> None:
        """Make rq-scheduler's entries those that are declared, whatever a crash or a person did to them."""
        wanted = list(self.plans.values())
        with self.redis.pipeline(transaction=False) as pipe:
            pipe.zrange(self.scheduled_jobs_key, 0, -1, withscores=True)
            for plan in wanted:
                pipe.exists(self.job.key_for(plan.id))
            found, *present = pipe.execute()
        scores = dict(found)
        records = timetable.records(self.redis, [plan.name for plan in wanted])
        for plan, exists in zip(wanted, present, strict=True):
            record = records[plan.name]
            score = scores.pop(plan.id.encode(), None)
            if not plan.knows(record):
                self._declare(plan)
                continue
            due = self._next[plan.id] = slots.next_due(plan.timing, record.last_slot, self.lease.clock())
            if score != due or not exists:
                self._carry(plan, due)
                log.warning(event("reassert", schedule=plan.name, next=due))
        for member in scores:
            self._remove(member)

    def enqueue_jobs(self) -> None:
        """Fire the slot of each entry that is due by Redis's clock."""
        due = cast("list[bytes]", self.redis.zrangebyscore(self.scheduled_jobs_key, 0, self.lease.clock()))
        for member in due:
            if plan := self.plans.get(member.decode("ascii", "replace")):
                self._fire(plan)

    def enqueue_delayed(self) -> bool:
        """Move RQ's own delayed jobs that are due into their queues; True if more may wait."""
        registries = {name: queue.scheduled_job_registry.key for name, queue in self.queues.items()}
        with self.redis.pipeline(transaction=False) as pipe:
            for key in registries.values():
                pipe.zrangebyscore(key, 0, int(self.lease.clock()), start=0, num=BATCH)
            due = pipe.execute()
        for (name, key), members in zip(registries.items(), due, strict=True):
            for member in members:
                self._move(self.queues[name], key, member)
        return any(len(members) == BATCH for members in due)

    def _declare(self, plan: Plan) -> None:
        """Start a schedule that is new, was paused, or has a new timing: its first slot is the next one."""
        now = self.lease.clock()
        self._next[plan.id] = plan.timing.next(now)
        self._carry(plan, self._next[plan.id], newest=plan.timing.newest(now))
        log.info(event("declare", schedule=plan.name, timing=plan.timing, next=self._next[plan.id]))

    def _carry(self, plan: Plan, due: int, newest: int | None = None) -> None:
        """Write rq-scheduler's entry of ``plan`` with its next slot, in one step with the record.

        ``newest``: the slot after which the record begins anew.
        """
        timing = plan.timing
        job = self._create_job(
            plan.entry.name.replace(":", "."),
            id=plan.id,
            queue_name=plan.queue,
            meta={"cron_string": timing.cron} if timing.cron else {"interval": timing.every},
            commit=False,
        )

        record_key = timetable.record_key(plan.name)

        def write(pipe: Pipeline) -> None:
            record = Record.from_hash(pipe.hgetall(record_key))
            pipe.multi()
            if newest is not None:
                pipe.delete(record_key)  # with any field that nobody can read
                fresh = replace(record, timing=str(plan.timing), last_slot=newest)
                pipe.hset(record_key, mapping=fresh.to_hash())
            pipe.delete(job.key)
            job.save(pipeline=pipe)
            pipe.zadd(self.scheduled_jobs_key, {plan.id: due})

        self.lease.guarded(write, record_key)

    def _remove(self, member: bytes) -> None:
        """Remove an entry that is not served, and the record of a schedule that is not even declared."""
        name = member.decode("ascii", "replace").removeprefix("schedule-")
        kept = name in self.table.entries

        def write(pipe: Pipeline) -> None:
            pipe.multi()
            pipe.zrem(self.scheduled_jobs_key, member)
            if member == entry_id(name).encode() and name:
                pipe.delete(self.job.key_for(entry_id(name)))
                if kept:  # the slots until it is served again are not missed ones
                    pipe.hdel(timetable.record_key(name), "timing")
                else:
                    pipe.delete(timetable.record_key(name))

        self.lease.guarded(write)
        facts = event("rest" if kept else "remove", entry=member.decode("utf-8", "replace"))
        (log.info if kept else log.warning)(facts)

    def _fire(self, plan: Plan) -> None:
        queue, record_key = self.queues[plan.queue], timetable.record_key(plan.name)

        def write(pipe: Pipeline) -> tuple[str, slots.Due, float] | None:
            now = self.lease.clock()
            record = Record.from_hash(pipe.hgetall(record_key))
            last = record.last_slot
            if last is None or not plan.knows(record) or not (due := slots.due(plan.timing, last, now)):
                return None  # settled by the next reassert
            job_id, slot_key = slots.job_id(plan.name, due.slot), keys.slot(plan.name, due.slot)
            pipe.watch(slot_key, self.job.key_for(job_id))  # type: ignore[no-untyped-call]
            action = "fire"
            if pipe.exists(slot_key, self.job.key_for(job_id)):
                action, record = "repeat", record.after_passing(due)
            elif record.last_job and pipe.lpos(queue.key, record.last_job) is not None:
                action, record = "skip", record.after_passing(due, skipped=1)
            else:
                record = record.after_firing(due, job_id, now)
            pipe.multi()
            pipe.hset(record_key, mapping=record.to_hash())
            pipe.zadd(self.scheduled_jobs_key, {plan.id: plan.timing.next(due.slot)})
            if action == "fire":
                job = self.job.of(plan.entry, {}, connection=self.redis, job_id=job_id, queue=plan.queue)
                pipe.set(slot_key, self.lease.token, ex=SLOT_TTL)
                queue.enqueue_job(job, pipeline=pipe)
            return action, due, now - due.slot

        if outcome := self.lease.guarded(write, record_key):
            action, due, late = outcome
            self._next[plan.id] = plan.timing.next(due.slot)
            facts = event(action, schedule=plan.name, slot=due.slot, late=late, **_missed(due))
            (log.info if action == "fire" and not due.missed else log.warning)(facts)

    def _move(self, queue: HpcQueue, registry_key: str, member: bytes) -> None:
        job_id = member.decode("utf-8", "replace")

        def write(pipe: Pipeline) -> str:
            job: HpcJob | None = None
            if pipe.zscore(registry_key, member) is not None:
                with suppress(ValueError):  # no id that rq or we would ever make
                    job = cast("HpcJob | None", self.job.fetch_many([job_id], connection=self.redis)[0])
            pipe.multi()
            pipe.zrem(registry_key, member)
            # Saving signs again, so a good job must not be led into a queue that it was not signed for.
            if job is None or not (job.refusal or job.origin == queue.name):
                return event("drop", queue=queue.name, job=job_id)
            done = event(
                "enqueue", queue=queue.name, job=job_id, task=job.task or None, refused=job.refusal or None
            )
            queue._enqueue_job(job, pipeline=pipe, at_front=job.should_enqueue_at_front())
            return done

        log.info(self.lease.guarded(write, self.job.key_for(job_id)))


def _missed(due: slots.Due) -> dict[str, int | None]:
    return {"missed": due.missed, "missed_from": due.missed_from, "missed_to": due.missed_to}


def run(config: Config) -> int:
    """Schedule in the foreground until SIGTERM or SIGINT; returns 0. Waits out Redis outages.

    Call it in the main thread. Raises ConfigError for a schedule that cannot be served, PermissionsError.
    """
    to_stderr()
    known = catalog.load(config)
    plans(config, known)
    _serve(config, known, Signals((signal.SIGTERM, signal.SIGINT)))
    return 0


def _serve(config: Config, known: catalog.Catalog, signals: Signals) -> None:
    scheduler: HpcScheduler | None = None
    pauses = outage.delays(longest=LONGEST_PAUSE)
    away = False
    while not any(signals.counts.values()):
        try:
            scheduler = scheduler or HpcScheduler(config, known, connect(config, retries=0))
            wait = scheduler.tick()
        except (*outage.AWAY, RedisUnavailableError) as error:
            if not away:
                log.warning(event("redis-away", error=error))
            away, wait = True, next(pauses)
        else:
            if away:
                log.info(event("redis-back"))
            away, pauses = False, outage.delays(longest=LONGEST_PAUSE)
        signals.wait(wait)
    log.info(event("stop"))
    if scheduler:
        with suppress(*outage.AWAY):
            scheduler.remove_lock()
