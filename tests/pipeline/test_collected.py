"""What `gc` removed is gone from the index in a real Redis too."""

from __future__ import annotations

import time

from hpcpools.maintenance import gc, metrics
from hpcpools.redisdb import keys
from hpcpools.runs.states import RunState
from hpcpools.runs.token import new_token
from hpcpools.runs.view import read_view
from tests.pipeline.lab import PipelineLab


def test_removed_runs_leave_the_index(lab: PipelineLab) -> None:
    """The others stay; without Redis the runs go all the same."""
    runs = [lab.run() for _ in range(3)]
    for run in runs[:2]:
        run.record(RunState.COMPLETED, time.time())
    metrics.index(lab.config, lab.redis, [read_view(run) for run in runs])
    found = gc.collect(lab.config, 86400, dry_run=True, now=time.time() + 40 * 86400)
    assert len(found.runs) == 2
    assert lab.redis.hlen(keys.INDEX) == 3
    gc.collect(lab.config, 86400, dry_run=False, now=time.time() + 40 * 86400)
    assert lab.redis.hkeys(keys.INDEX) == [runs[2].token.encode()]
    runs[2].record(RunState.FAILED, time.time())
    lab.server.kill()
    lab.server.wait()
    assert gc.collect(lab.config, 86400, dry_run=False, now=time.time() + 40 * 86400).runs == [runs[2].token]


def test_the_index_forgets_many_runs_in_few_round_trips(lab: PipelineLab) -> None:
    """A thousand at a time over one connection, however many there are."""
    before = lab.redis.info("stats")["total_connections_received"]
    metrics.forget(lab.config, [new_token(each) for each in range(2500)])
    assert lab.redis.info("stats")["total_connections_received"] == before + 1
    assert lab.redis.info("commandstats")["cmdstat_hdel"]["calls"] == 3
