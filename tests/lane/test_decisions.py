"""The lane's pure decisions: when a Slurm job is over, what shares one, how long it may take."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpcpools import catalog
from hpcpools import config as configuration
from hpcpools.catalog import Catalog, Entry
from hpcpools.config import Config
from hpcpools.declare import TaskDeclaration, mebibytes, task
from hpcpools.errors import ConfigError, HpcpoolsError, RefusedError, SlurmRefusedError, UsageError
from hpcpools.lane import filling, grouping, inflight
from hpcpools.lane.grouping import Group, Needs
from hpcpools.lane.inflight import InFlight
from hpcpools.runs.batches import Carried
from hpcpools.training.watch import Poll
from tests.lane.test_node import make

LANE = {"lane": {"partition": "cpu", "gpu_partition": "a100", "mem": "2G"}}


def config(tmp_path: Path, **sections: Any) -> Config:
    """A config with a lane."""
    return configuration.parse({**LANE, **sections}, tmp_path / "hpcpools.toml", {})


def entry(queue: str = "slurm", **declared: Any) -> Entry:
    """A task."""
    return Entry("mod:work", queue, print, TaskDeclaration(**declared), "declaration")


def opened(tmp_path: Path, count: int = 2) -> InFlight:
    """A batch that Slurm acknowledged as job 7."""
    place = make(tmp_path, *(("good", {}) for _ in range(count)))
    return InFlight(place, place.read(), "7")


@pytest.mark.parametrize(
    ("state", "over"),
    [("PENDING", ""), ("RUNNING", ""), ("COMPLETING", ""), ("COMPLETED", "COMPLETED"), ("TIMEOUT", "TIMEOUT"),
     ("NODE_FAIL", "NODE_FAIL"), ("PREEMPTED", "PREEMPTED"), ("LAUNCH_FAILED", ""), ("A_NEW_WORD", "")],
)  # fmt: skip
def test_only_slurm_s_word_ends_a_batch(tmp_path: Path, state: str, over: str) -> None:
    """A word that may change, or that nobody knows, decides nothing."""
    batch = opened(tmp_path)
    poll = Poll(at=time.time(), batches={batch.place.token: {"job_id": "7", "state": state}})
    assert inflight.ended(config(tmp_path), batch, poll) == over


def test_absence_needs_patience(tmp_path: Path) -> None:
    """No answer is no absence; an unclear sbatch is given the time of its look-ups."""
    batch, now = opened(tmp_path), time.time()
    slurm = config(tmp_path, slurm={"lost_after": "120s", "submit_lookups": [5, 300]})
    token = batch.place.token
    assert inflight.ended(slurm, batch, Poll(at=now + 1000)) == ""
    assert inflight.ended(slurm, batch, Poll(at=now + 100, absent={token: now})) == ""
    assert inflight.ended(slurm, batch, Poll(at=now + 130, absent={token: now - 500})) == inflight.ABSENT
    batch.job_id = ""
    assert inflight.ended(slurm, batch, Poll(at=now + 200, absent={token: now})) == ""
    assert inflight.ended(slurm, batch, Poll(at=now + 310, absent={token: now})) == inflight.ABSENT


def test_what_a_lost_job_leaves(tmp_path: Path) -> None:
    """What ended stays, what ran is lost and counts, what did not start comes back and does not."""
    batch = opened(tmp_path, 3)
    assert batch.place.start(0, time.time()) and batch.place.end(0, "finished", result=1)
    assert batch.place.start(1, time.time())
    batch.over = "NODE_FAIL"
    batch.give_up()
    first, second, third = (batch.place.ending(number) or {} for number in range(3))
    assert first["outcome"] == "finished"
    assert (second["outcome"], second["count"], second["fence"]) == ("lost", True, inflight.FENCE)
    assert (third["outcome"], third["count"]) == ("returned", False)
    assert not batch.place.start(2, time.time())  # a node that Slurm forgot starts nothing any more
    assert not batch.place.end(1, "finished", result=2)


def test_a_job_that_cannot_even_begin_counts(tmp_path: Path) -> None:
    """Else a broken node, or module, would be tried without end; a preemption is nobody's fault."""
    for word, count in (("FAILED", True), ("PREEMPTED", False)):
        folder = tmp_path / word
        folder.mkdir()
        batch = opened(folder, 1)
        batch.over = word
        batch.give_up()
        assert (batch.place.ending(0) or {})["count"] is count


def test_a_refused_submission(tmp_path: Path) -> None:
    """What needs Slurm fails with its words; an overflow goes back. If nobody is to blame, all goes back."""
    for error, outcome in (
        (SlurmRefusedError("no such partition"), "failed"),
        (HpcpoolsError("x"), "returned"),
    ):
        folder = tmp_path / outcome
        folder.mkdir()
        batch = opened(folder)
        overflow = msgspec.structs.replace(batch.batch.jobs[1], queue="default")
        batch.batch = msgspec.structs.replace(batch.batch, jobs=(batch.batch.jobs[0], overflow))
        filling._take_back(batch, error)
        ends = [batch.place.ending(number) or {} for number in range(2)]
        assert [end["outcome"] for end in ends] == [outcome, "returned"]
        assert ends[0]["reason"] == error.message


def test_an_unclear_submission_becomes_known(tmp_path: Path) -> None:
    """The token in Slurm's answer tells the id."""
    batch = opened(tmp_path)
    batch.job_id = ""
    listed = {batch.place.token: {"job_id": "12", "state": "PENDING"}}
    batch.look(config(tmp_path), Poll(at=time.time(), batches=listed))
    assert (batch.job_id, batch.place.job_id(), batch.over) == ("12", "12", "")


def test_needs_and_groups(tmp_path: Path) -> None:
    """GPUs choose the partition; a group ends at its count or its expected time."""
    here = config(tmp_path, lane={**LANE["lane"], "group": 3, "group_time": "60s"})
    assert grouping.needs(here, entry(gpus=1, mem=8192), 60.0) == Needs("a100", 1, 1, 8192)
    assert grouping.needs(here, entry(slurm=True, cpus=4), 60.0) == Needs("cpu", 0, 4, 2048)
    group = Group(Needs("cpu", 0, 1, 2048))
    group.add(Carried("a", "e", "slurm", "mod:work", {}, 600.0), 59.0)
    assert not group.is_full(here)
    assert group.minutes == 11  # its limit, and a minute to start and end
    group.add(Carried("b", "e", "slurm", "mod:work", {}, 30.0), 2.0)
    assert group.is_full(here)
    assert group.minutes == 12  # 59 + 600 + 60 seconds


def test_the_partition_s_limit(tmp_path: Path) -> None:
    """Slurm would let a job wait for ever that asks for more: no group does, and no task may."""
    limits = {"partitions": {"cpu": {"max_time": "20m"}}}
    here = config(tmp_path, training=limits)
    needs = grouping.needs(here, entry(slurm=True), 600.0)
    with pytest.raises(RefusedError, match="does not fit"):
        grouping.needs(here, entry(slurm=True), 1200.0)
    group = Group(needs)
    assert grouping.needs(here, entry(slurm=True), 1140.0) == needs
    group.add(Carried("a", "e", "slurm", "mod:work", {}, 600.0), 500.0)
    assert group.has_room(here, 30.0, 640.0)
    assert not group.has_room(here, 30.0, 660.0)
    assert (
        grouping.needs(config(tmp_path), entry(slurm=True), 1e6).partition == "cpu"
    )  # its limit is not known


def test_expected_times() -> None:
    """The limit until enough is known, then the median, never more than the limit."""
    times: dict[str, list[float]] = {}
    assert grouping.expected(times, "mod:work", 60.0) == 60.0
    for seconds in (1.0, 3.0, 500.0):
        grouping.remember(times, "mod:work", seconds)
    assert grouping.expected(times, "mod:work", 60.0) == 3.0
    for _ in range(100):
        grouping.remember(times, "mod:work", 500.0)
    assert (len(times["mod:work"]), grouping.expected(times, "mod:work", 60.0)) == (grouping.SAMPLES, 60.0)


def test_upkeep_stays_on_the_login_node(tmp_path: Path) -> None:
    """It works on Redis; what a stage of a pipeline calls decides what the stage needs."""
    upkeep = Entry("hpcpools.maintenance:scan_failed_jobs", "maintenance", print, TaskDeclaration(), "")
    runner = Entry(grouping.RUNNER, "maintenance", print, TaskDeclaration(), "")
    inner = entry(gpus=2)
    listed = Catalog({"mod:work": inner})
    with pytest.raises(RefusedError, match="Redis"):
        grouping.carried_task(listed, upkeep, {})
    assert grouping.carried_task(listed, runner, {"task": "mod:work"}) is inner


def test_where_a_task_goes(tmp_path: Path) -> None:
    """To the lane if it says so, or its caller does; never elsewhere, and nowhere without one."""
    with_lane = config(tmp_path)
    without = configuration.parse({}, tmp_path / "hpcpools.toml", {})
    plain, wide = entry("default"), entry(gpus=1)
    assert catalog.destination(with_lane, wide) == "slurm"
    assert catalog.destination(with_lane, plain, "slurm") == "slurm"
    assert catalog.destination(without, plain) == "default"
    for where, which, asked in (
        (with_lane, wide, "default"),
        (without, wide, None),
        (without, plain, "slurm"),
    ):
        with pytest.raises(RefusedError):
            catalog.destination(where, which, asked)
    local = config(tmp_path, training={"engine": "local"})
    assert (with_lane.has_lane, local.has_lane, without.has_lane) == (True, False, False)
    assert with_lane.queues[-1] == "slurm"


@pytest.mark.parametrize(
    "lane",
    [{"overflow_queues": ["maintenance"]}, {"overflow_queues": ["nope"]}, {"mem": "much"}, {"group": 0}],
)
def test_wrong_configurations(tmp_path: Path, lane: dict[str, Any]) -> None:
    """Refused, naming the key."""
    with pytest.raises(ConfigError, match="lane"):
        config(tmp_path, lane=lane)
    with pytest.raises(ConfigError, match="slurm"):
        config(tmp_path, short={"queues": ["default", "maintenance", "slurm"]})


def test_declarations() -> None:
    """What a task may ask for, and what that means."""
    assert TaskDeclaration().needs == TaskDeclaration(cpus=4).needs == ""
    assert TaskDeclaration(gpus=1, mem=512, slurm=True).needs == "gpus=1, mem=512M, slurm"
    assert [mebibytes(text) for text in ("8G", "1.5T", "512", 512, "100K")] == [8192, 1572864, 512, 512, 1]
    wrong: list[dict[str, Any]] = [{"gpus": -1}, {"gpus": True}, {"cpus": 0}, {"mem": "lots"}, {"mem": 0}]
    for asked in wrong:
        with pytest.raises(UsageError):
            task(**asked)(mebibytes)
