"""What a partition gives its jobs before preemption: scontrol show partition of a real 22.05."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hpcpools.slurm import partition
from hpcpools.slurm.partition import Preemption
from tests.unit.slurm import captured
from tests.unit.slurm.conftest import Fake

PRIO = "preempt/partition_prio"
ROWS = partition.parse_preemption(captured("partitions.txt"))


def test_partitions() -> None:
    """The lab's: `low` lies under `gpu`, on the same nodes; `cpu` is alone on its own."""
    assert (
        Preemption("gpu", True, "OFF", 0, 10, "n[1-3]"),
        Preemption("low", False, "REQUEUE", 2, 1, "n[1-3]"),
        Preemption("cpu", False, "REQUEUE", 0, 1, "n4"),
    ) == ROWS


@pytest.mark.parametrize(
    ("name", "preempt_type", "grace"),
    [
        ("low", PRIO, 2),
        ("gpu", PRIO, None),
        ("", PRIO, None),  # the default one
        ("cpu", PRIO, None),  # nobody of a higher tier has its node
        ("cpu", "preempt/qos", 0),  # the quality of service decides: it may be
        ("gpu", "preempt/qos", None),
        ("low", "preempt/none", None),
        ("low", "", None),
        ("nothing", PRIO, None),
    ],
)
def test_who_can_be_preempted(name: str, preempt_type: str, grace: int | None) -> None:
    """By tier and common nodes where priority decides."""
    found = partition.preemptible(ROWS, name, preempt_type)
    assert (found.grace_s if found else None) == grace


def test_a_suspended_job_need_not_save() -> None:
    """Only what is requeued or cancelled loses its place."""
    rows = (ROWS[0], replace(ROWS[1], mode="GANG,SUSPEND"))
    assert partition.preemptible(rows, "low", PRIO) is None


@pytest.mark.parametrize(
    ("hostlist", "names"),
    [
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("a,n[08-10,12]", ["a", "n08", "n09", "n10", "n12"]),
        ("r[1-2]c[0-1]-ib", ["r1c0-ib", "r1c1-ib", "r2c0-ib", "r2c1-ib"]),
        ("n[x-y]", ["nx-y"]),
        ("", []),
    ],
)
def test_hostlists(hostlist: str, names: list[str]) -> None:
    """As slurm.conf(5) writes many nodes."""
    assert list(partition.expand(hostlist)) == names


def test_one_call(fake: Fake) -> None:
    """For all partitions, the hidden ones too: one of them may be the one that preempts."""
    runner = fake(
        scontrol='test "$*" = "--all --oneliner show partition" && echo "PartitionName=p GraceTime=60"'
    )
    assert partition.preemption(runner) == (Preemption("p", False, "OFF", 60, 0, ""),)
    assert runner.calls["scontrol"].count == 1
