"""The fast way from one job to the next: write a plain success and claim again, in one round trip.

Owns what a success looks like in rq's keys (rq 3; tests/short/test_key_layout.py compares them with rq's own
code). Refuses whatever is not plain: dependents, no or endless life of the result; rq's code does that.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rq.utils import now, utcformat

from hpcpools.short.scripts import CLAIM, Claim, claim_args, claim_keys, claimed

if TYPE_CHECKING:
    from redis import Redis

_NOT_PLAIN = -1

# KEYS and the first five ARGV: as for a claim. Then: queue, job id, execution id, the time in rq's words and
# in seconds, result (base64, or empty), its life in seconds, 1 to claim afterwards.
# Only who removes the execution owns the outcome. If it is gone, an earlier call, whose reply was lost, or
# somebody else wrote it. A Redis that is full lets a script write on once it has taken something away: so the
# first write is a DEL, and jobs end whatever waits.
_FINISH = """
local function finish()
  local queue, id, execution, worker = ARGV[6], ARGV[7], ARGV[8], KEYS[3]
  local job, held = 'rq:job:' .. id, id .. ':' .. execution
  local wip, ttl = 'rq:wip:' .. queue, tonumber(ARGV[12])
  if not redis.call('ZSCORE', wip, held) then return 0 end
  if redis.call('EXISTS', job .. ':dependents') == 1 or redis.call('EXISTS', job) == 0 then return -1 end
  local started = redis.call('HGET', 'rq:execution:' .. held, 'created_at') or ARGV[10]
  local result = {'type', '1', 'worker_name', ARGV[1]}
  if ARGV[11] ~= '' then
    result[5], result[6] = 'return_value', ARGV[11]
  end
  for _, word in ipairs({'execution_id', execution, 'execution_started_at', started,
      'execution_ended_at', ARGV[10]}) do
    result[#result + 1] = word
  end
  redis.call('DEL', 'rq:execution:' .. held)
  redis.call('XADD', 'rq:results:' .. id, 'MAXLEN', '~', '10', '*', unpack(result))
  redis.call('EXPIRE', 'rq:results:' .. id, ttl)
  redis.call('HSET', job, 'status', 'finished', 'ended_at', ARGV[9])
  redis.call('ZADD', 'rq:finished:' .. queue, ARGV[10] + ttl, id)
  redis.call('EXPIRE', job, ttl)
  redis.call('EXPIRE', job .. ':dependencies', ttl)
  redis.call('HINCRBY', worker, 'successful_job_count', 1)
  redis.call('HINCRBYFLOAT', worker, 'total_working_time', string.format('%.6f', ARGV[10] - started))
  redis.call('ZREM', wip, held)
  redis.call('ZREM', 'rq:executions:' .. id, execution)
  redis.call('SREM', KEYS[1], held)
  return 1
end
if finish() == -1 then return {-1} end
if ARGV[13] == '1' then return {1, claim(true)} end
return {1}
"""


@dataclass(frozen=True)
class Success:
    """How a task ended well: its value as JSON (``null`` is kept as no value), kept for ``ttl`` seconds."""

    queue: str
    job_id: str
    execution_id: str
    value: bytes
    ttl: int
    ended: datetime

    @classmethod
    def of(cls, claim: Claim, value: bytes, ttl: int) -> Success:
        """It ended now."""
        return cls(claim.queue, claim.job_id, claim.execution_id, value, ttl, now())


class Steps:
    """From job to job for one worker, in one round trip each; repeating a step is harmless."""

    def __init__(self, connection: Redis, worker: str) -> None:
        self._connection = connection
        self._worker = worker
        self._claim = connection.register_script(CLAIM + "return claim()")
        self._finish = connection.register_script(CLAIM + _FINISH)
        self._keys: dict[tuple[str, ...], list[str]] = {}

    def claim(self, execution_id: str, queues: Sequence[str]) -> Claim | None:
        """As Scripts.claim."""
        return claimed(
            self._claim(keys=self._known(queues), args=claim_args(self._worker, execution_id)), queues
        )

    def finish(
        self, success: Success, execution_id: str, queues: Sequence[str], *, go_on: bool
    ) -> tuple[bool, Claim | None]:
        """Write a success, and with ``go_on`` claim the next job; (False, None) if it is not a plain one.

        Nothing is written then, and nothing claimed.
        """
        if success.ttl <= 0:
            return False, None
        value = "" if success.value == b"null" else b64encode(success.value)
        answer: Any = self._finish(
            keys=self._known(queues),
            args=[
                *claim_args(self._worker, execution_id),
                *(success.queue, success.job_id, success.execution_id),
                *(utcformat(success.ended), success.ended.timestamp(), value, success.ttl, int(go_on)),
            ],
        )
        if answer[0] == _NOT_PLAIN:
            return False, None
        return True, claimed(answer[1], queues) if len(answer) > 1 else None

    def _known(self, queues: Sequence[str]) -> list[str]:
        key = tuple(queues)
        if key not in self._keys:
            self._keys[key] = claim_keys(self._worker, queues)
        return self._keys[key]
