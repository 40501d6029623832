"""REL-6: Redis reaches its maxmemory. Nothing is lost, the client is told, the pool goes on."""

from __future__ import annotations

import pytest

from hpcpools.errors import RedisUnavailableError
from hpcpools.short.enqueue import ShortJob
from tests.short.lab import Lab, wait_for

ROOM = 512 * 1024  # bytes beyond what an empty Redis needs
MOST = 5000  # jobs; far more than fit


def test_rel_6_a_flood_loses_nothing_and_is_worked_off_while_memory_is_full(lab: Lab) -> None:
    """The flood ends with a clear error; 0 acknowledged jobs are missing, and all end while the limit stays:
    to take and finish a job must not need memory that only finished jobs can give back."""
    lab.redis.config_set("maxmemory", lab.redis.info("memory")["used_memory"] + ROOM)
    acknowledged: list[ShortJob] = []
    with pytest.raises(RedisUnavailableError, match="Redis is full and takes no more jobs"):
        for number in range(MOST):
            acknowledged.append(lab.enqueue("say", word=str(number)))
    assert 100 < len(acknowledged) < MOST
    waiting = {member.decode() for member in lab.redis.lrange("rq:queue:default", 0, -1)}  # type: ignore[union-attr]
    assert waiting >= {job.id for job in acknowledged}
    assert all(lab.redis.exists(f"rq:job:{job.id}") for job in acknowledged)
    lab.start_pool()
    wait_for(lambda: len(lab.lines()) >= len(acknowledged), "all have run", 60)
    assert {job.wait(30) for job in acknowledged} == {"finished"}
    said = [line[1] for line in lab.lines()]
    assert len(said) == len(set(said)) == len(waiting)
