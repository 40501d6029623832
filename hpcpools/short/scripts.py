"""The steps that must not be torn: claim a job, put it back, withdraw it. Redis runs a script whole or not.

Owns the only code that writes rq's keys (rq 3) without rq. Refuses, by dropping its id, a queue entry whose
job is gone, has ended, or is running right now.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rq.utils import now, utcformat

from hpcpools.short.job import MAX_BELLS, bell_key

if TYPE_CHECKING:
    from redis import Redis

LEASE = 90  # seconds that rq's registries believe in an execution without a heartbeat
DEATHS = "hpcpools_deaths"
MAX_DEATHS = 3  # a job that was running while this many workers died is failed, not started again
JOB_GONE, POISON = 0, -1

# Shared: may this id be started? An id that rq itself would refuse, and a key of the wrong type (both can
# only be planted), are answered like a job that is gone.
_CAN_START = """
local function can_start(id, wip)
  if not string.match(id, '^[%w_-]+$') then return false end
  local status = redis.pcall('HGET', 'rq:job:' .. id, 'status')
  if type(status) == 'table' then return false end
  if not status and redis.call('EXISTS', 'rq:job:' .. id) == 0 then return false end
  if status == 'finished' or status == 'failed' or status == 'stopped' or status == 'canceled' then
    return false
  end
  local executions = redis.pcall('ZRANGE', 'rq:executions:' .. id, 0, -1)
  if executions.err then return false end
  for _, execution in ipairs(executions) do
    if redis.call('ZSCORE', wip, id .. ':' .. execution) then return false end
  end
  return true
end
"""

# KEYS: the worker's executions, rq's suspension flag, the worker; then per queue: list, wip, bell.
# ARGV: worker, execution id, time, time as rq writes it, lease.
# A worker that asks holds nothing. If it does hold an execution, the reply to its last claim was lost: the
# same job is returned again, so a repeated claim is harmless. The score of an execution is endless: only we
# know whether its worker lives, so no cleaning of rq's tools may take it for abandoned.
CLAIM = (
    _CAN_START
    + """
local function rest(state)
  if redis.call('EXISTS', KEYS[3]) == 1 then redis.call('HSET', KEYS[3], 'state', state) end
  return false
end
local function claim(busy)
  for _, held in ipairs(redis.call('SMEMBERS', KEYS[1])) do
    local id, execution = string.match(held, '^(.*):([^:]*)$')
    for q = 4, #KEYS, 3 do
      if redis.call('ZSCORE', KEYS[q + 1], held) then
        return {(q - 4) / 3, id, execution, redis.call('HGETALL', 'rq:job:' .. id)}
      end
    end
    redis.call('SREM', KEYS[1], held)
  end
  if redis.call('EXISTS', KEYS[2]) == 1 then return rest('suspended') end
  for q = 4, #KEYS, 3 do
    while true do
      local id = redis.call('LPOP', KEYS[q])
      if not id then
        redis.call('DEL', KEYS[q + 2])
        break
      end
      if can_start(id, KEYS[q + 1]) then
        local held, lease = id .. ':' .. ARGV[2], tonumber(ARGV[5])
        local execution, executions = 'rq:execution:' .. held, 'rq:executions:' .. id
        redis.call('HSET', execution, 'id', ARGV[2], 'job_id', id, 'created_at', ARGV[3],
          'last_heartbeat', ARGV[3], 'worker_name', ARGV[1])
        redis.call('EXPIRE', execution, lease)
        redis.call('ZADD', executions, ARGV[3] + lease + 60, ARGV[2])
        redis.call('EXPIRE', executions, lease + 60)
        redis.call('ZADD', KEYS[q + 1], '+inf', held)
        redis.call('SADD', KEYS[1], held)
        redis.call('EXPIRE', KEYS[1], lease + 60)
        if not busy then
          redis.call('HSET', KEYS[3], 'state', 'busy')
          redis.call('EXPIRE', KEYS[3], lease)
        end
        local started, enqueued = ARGV[4], redis.call('HGET', 'rq:job:' .. id, 'enqueued_at')
        if enqueued and #enqueued == #started and enqueued > started then started = enqueued end
        redis.call('HSET', 'rq:job:' .. id, 'status', 'started', 'worker_name', ARGV[1],
          'started_at', started, 'last_heartbeat', ARGV[4])
        redis.call('PERSIST', 'rq:job:' .. id)
        return {(q - 4) / 3, id, ARGV[2], redis.call('HGETALL', 'rq:job:' .. id)}
      end
    end
  end
  return rest('idle')
end
"""
)

# KEYS: wip, queue list, bell. ARGV: job id, execution id, worker, deaths allowed (0: do not count), bells.
# The one who removes the execution owns the job; for everyone else it is settled already.
_PUT_BACK = """
local held, job = ARGV[1] .. ':' .. ARGV[2], 'rq:job:' .. ARGV[1]
if not redis.call('ZSCORE', KEYS[1], held) then return 0 end
local status = redis.pcall('HGET', job, 'status')
local gone = type(status) == 'table' or redis.call('EXISTS', job) == 0 or status == 'finished'
  or status == 'failed' or status == 'stopped' or status == 'canceled'
local allowed, deaths = tonumber(ARGV[4]), 0
if allowed > 0 and not gone then
  deaths = tonumber(redis.call('HGET', job, 'hpcpools_deaths') or 0) or 0
  if deaths + 1 >= allowed then return -1 end
end
redis.call('ZREM', KEYS[1], held)
redis.call('DEL', 'rq:execution:' .. held)
redis.call('ZREM', 'rq:executions:' .. ARGV[1], ARGV[2])
redis.call('SREM', 'rq:worker:' .. ARGV[3] .. ':executions', held)
if gone then return 0 end
if allowed > 0 then redis.call('HSET', job, 'hpcpools_deaths', deaths + 1) end
redis.call('HSET', job, 'status', 'queued', 'worker_name', '')
redis.call('LPUSH', KEYS[2], ARGV[1])
redis.call('RPUSH', KEYS[3], 1)
redis.call('LTRIM', KEYS[3], 0, ARGV[5] - 1)
return 1
"""

# KEYS: intermediate list, wip, queue list, bell. ARGV: job id, bells.
_ADOPT = (
    _CAN_START
    + """
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 or not can_start(ARGV[1], KEYS[2]) then return 0 end
redis.call('HSET', 'rq:job:' .. ARGV[1], 'status', 'queued')
redis.call('LPUSH', KEYS[3], ARGV[1])
redis.call('RPUSH', KEYS[4], 1)
redis.call('LTRIM', KEYS[4], 0, ARGV[2] - 1)
return 1
"""
)

# KEYS: queue list, scheduled, deferred, canceled. ARGV: job id, time, seconds to remember it.
_WITHDRAW = """
local job = 'rq:job:' .. ARGV[1]
local removed = redis.call('LREM', KEYS[1], 0, ARGV[1]) + redis.call('ZREM', KEYS[2], ARGV[1])
  + redis.call('ZREM', KEYS[3], ARGV[1])
if removed == 0 then return 0 end
redis.call('HSET', job, 'status', 'canceled')
redis.call('EXPIRE', job, ARGV[3])
redis.call('ZADD', KEYS[4], ARGV[2], ARGV[1])
return 1
"""


@dataclass(frozen=True)
class Claim:
    """A job that its worker holds from now on, as it was in Redis at that moment."""

    queue: str
    job_id: str
    execution_id: str
    fields: dict[bytes, bytes]


class Scripts:
    """The scripts on one connection."""

    def __init__(self, connection: Redis) -> None:
        self._claim = connection.register_script(CLAIM + "return claim()")
        self._put_back = connection.register_script(_PUT_BACK)
        self._adopt = connection.register_script(_ADOPT)
        self._withdraw = connection.register_script(_WITHDRAW)

    def claim(self, worker: str, execution_id: str, queues: Sequence[str]) -> Claim | None:
        """Take the first job of the first queue that has one; None if there is none, or rq is suspended."""
        return claimed(
            self._claim(keys=claim_keys(worker, queues), args=claim_args(worker, execution_id)), queues
        )

    def put_back(self, queue: str, job_id: str, execution_id: str, worker: str, *, count: bool) -> int:
        """Put a held job at the front of its queue; only after the process that ran it is dead.

        ``count``: it was held while its worker died. Returns 1, JOB_GONE if there is nothing to put back,
        or POISON, having changed nothing, if this death is one too many.
        """
        answer: Any = self._put_back(
            keys=[wip_key(queue), queue_key(queue), bell_key(queue)],
            args=[job_id, execution_id, worker, MAX_DEATHS if count else 0, MAX_BELLS],
        )
        return int(answer)

    def adopt(self, queue: str, job_id: str) -> bool:
        """Put an id from rq's intermediate list at the front of its queue; False if it was dropped."""
        answer: Any = self._adopt(
            keys=[intermediate_key(queue), wip_key(queue), queue_key(queue), bell_key(queue)],
            args=[job_id, MAX_BELLS],
        )
        return bool(answer)

    def withdraw(self, queue: str, job_id: str, remember: float) -> bool:
        """Cancel a job that waits, is scheduled or deferred; False if it does none of that any more."""
        answer: Any = self._withdraw(
            keys=[
                queue_key(queue),
                *(f"rq:{kind}:{queue}" for kind in ("scheduled", "deferred", "canceled")),
            ],
            args=[job_id, time.time(), int(remember)],
        )
        return bool(answer)


def claim_keys(worker: str, queues: Sequence[str]) -> list[str]:
    """The KEYS of a claim."""
    own = [f"rq:worker:{worker}:executions", "rq:suspended", f"rq:worker:{worker}"]
    return own + [key for queue in queues for key in (queue_key(queue), wip_key(queue), bell_key(queue))]


def claim_args(worker: str, execution_id: str) -> list[str | float]:
    """The first ARGV of a claim, made now."""
    when = now()
    return [worker, execution_id, when.timestamp(), utcformat(when), LEASE]


def claimed(answer: Any, queues: Sequence[str]) -> Claim | None:
    """What a claim answered."""
    if not answer:
        return None
    place, job_id, execution, flat = answer
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    return Claim(queues[int(place)], _text(job_id), _text(execution), fields)


def waited(fields: Mapping[bytes, bytes]) -> float:
    """Seconds from the enqueuing to the start of a claimed job."""
    try:
        enqueued, started = (
            datetime.fromisoformat(fields[name].decode().rstrip("Z"))
            for name in (b"enqueued_at", b"started_at")
        )
    except (KeyError, ValueError):
        return 0.0
    return (started - enqueued).total_seconds()


def queue_key(queue: str) -> str:
    """rq's list of waiting job ids."""
    return f"rq:queue:{queue}"


def wip_key(queue: str) -> str:
    """rq's sorted set of executions, ``job:execution``."""
    return f"rq:wip:{queue}"


def intermediate_key(queue: str) -> str:
    """rq's list of ids that a stock worker popped and has not started."""
    return f"rq:queue:{queue}:intermediate"


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
