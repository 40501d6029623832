"""Slurm's answers to the very commands of hpcpools, byte layout included: the same on both stages."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from hpcpools.errors import HpcpoolsError, SlurmRefusedError, SlurmUnavailableError, SubmissionUnknownError
from hpcpools.slurm import accounting, partition, queue, site, submit
from hpcpools.slurm.partition import Line, Nodes, Preemption
from hpcpools.slurm.site import Partition
from tests.parity.stage import Stage

MARK = "<~0123456789abcdef>"


def script(stage: Stage, *options: str) -> Path:
    """A script with options; hpcpools gives sbatch no others."""
    path = stage.folder / "script.sbatch"
    lines = [f"#SBATCH {option}\n" for option in ("--output=out.%j", *options)]
    path.write_text("#!/bin/bash\n" + "".join(lines) + "exit 0\n")
    return path


def test_the_site(stage: Stage) -> None:
    """One sinfo and one scontrol: partitions, their limits, and the settings that decide how jobs end."""
    seen = site.read_site(stage.runner)
    assert seen.partitions == (
        Partition("gpu", True, 3, 4, 8, 4000, 1440, None, "up"),
        Partition("low", False, 3, 4, 8, 4000, 1440, None, "up"),
        Partition("cpu", False, 1, 4, 8, 4000, 240, None, "up"),
    )
    assert replace(seen, partitions=(), cluster_name="") == site.Site(
        cluster_name="",
        version="22.05.8",
        partitions=(),
        has_accounting=True,
        stores_comments=False,
        kill_wait_s=5,
        min_job_age_s=300,
        job_requeue=True,
        preempt_mode="REQUEUE",
        preempt_type="preempt/partition_prio",
        preempt_sends_signal=True,
        max_array_size=1001,
    )
    assert partition.preemption(stage.runner) == (
        Preemption("gpu", True, "OFF", 0, 10, "n[1-3]"),
        Preemption("low", False, "REQUEUE", 2, 1, "n[1-3]"),
        Preemption("cpu", False, "REQUEUE", 0, 1, "n4"),
    )


def test_how_a_partition_stands(stage: Stage) -> None:
    """Nodes by state, with an administrator's reason; who waits before a job."""
    job = stage.submit("sleep 600", "--exclusive", "--nodelist=n1", "--time=5")
    stage.until_state(job, "RUNNING")
    stage.run("scontrol", "update", "nodename=n2", "state=drain", "reason=new disks")
    seen = partition.standing(stage.runner, "gpu")
    assert seen is not None
    assert (seen.name, seen.state, seen.max_minutes) == ("gpu", "up", 1440)
    assert sorted(seen.nodes, key=lambda nodes: nodes.names) == [
        Nodes("allocated", 1, "n1", ""),
        Nodes("drained", 1, "n2", "new disks"),
        Nodes("idle", 1, "n3", ""),
    ]
    assert partition.standing(stage.runner, "nosuch") is None
    waiting = stage.submit("true", "--hold", "--nodelist=n1")
    assert partition.line(stage.runner, "gpu", waiting) == Line(1, 0)
    stage.run("scontrol", "update", "nodename=n2", "state=resume")
    stage.run("scancel", job, waiting)


def test_the_layout_of_records(stage: Stage) -> None:
    """Every field padded to its width in bytes and cut there; a name with anything in it moves nothing."""
    name = "a|b;c 名前\t" + "x" * 200
    job = stage.submit("true", f"--job-name={name}", "--comment=über", "--hold")
    assert stage.run("squeue", "--me", "--noheader", "--format=%A").stdout == f"{job}\n"
    records = stage.runner.run(queue.squeue_argv(MARK)).splitlines()
    line = next(line for line in records if line.startswith(f"{job} "))
    cells = line.encode().split(MARK.encode())
    assert [len(cell) for cell in cells[:-1]] == [width for _, width in queue._FIELDS]
    assert cells[-1] == b""
    seen = stage.jobs()[job]
    assert seen.name == "a|b;c 名前 " + "x" * 147
    assert (seen.partition, seen.time_limit_min, seen.restarts) == ("gpu", 1440, 0)
    stage.run("scancel", job)
    argv = accounting.sacct_argv(MARK, time.time() - 60, 0)

    def cells_of_the_job() -> list[str]:
        lines = stage.runner.run(argv).splitlines()
        return next((line.split(MARK) for line in lines if line.startswith(f"{job}<")), [])

    stage.until(lambda: cells_of_the_job()[1:3] == ["CANCELLED by 0", "0:0"], "accounting has it")
    assert len(cells_of_the_job()) == len(accounting._FIELDS) + 1
    assert cells_of_the_job()[7] == "None assigned"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--partition=nosuch",), "invalid partition specified: nosuch; Batch job submission failed: Inv"),
        (("--constraint=nosuch",), "Invalid feature specification"),
        (("--gpus-per-node=9",), "Requested node configuration is not available"),
        (("--nodelist=nosuch",), "Invalid node name specified"),
        (("--mem=1T",), "Memory specification can not be satisfied"),
        (("--time=soon",), "Invalid --time specification"),
    ],
)
def test_what_sbatch_refuses(stage: Stage, options: tuple[str, ...], words: str) -> None:
    """Slurm's words; nothing is queued."""
    path = script(stage, *options)
    with pytest.raises(SlurmRefusedError) as refused:
        submit.sbatch(stage.runner, path, env=stage.runner.environment)
    assert words in refused.value.message
    assert stage.living() == []


def test_what_sbatch_accepts_or_tests(stage: Stage) -> None:
    """--parsable prints an id and nothing else; --test-only an estimate, and queues nothing."""
    runner = stage.runner
    said = submit.test_only(runner, script(stage, "--exclusive", "--time=5"), env=runner.environment)
    assert "to start at" in said
    assert "using 8 processors on nodes n" in said
    with pytest.raises(SlurmRefusedError, match="would refuse"):
        submit.test_only(runner, script(stage, "--partition=nosuch"), env=runner.environment)
    assert stage.living() == []
    job = submit.sbatch(runner, script(stage, "--time=2-00:00:00"), env=runner.environment)
    stage.until(lambda: "PartitionTimeLimit" in stage.queued(job), "its reason")
    assert stage.queued(job) == "PENDING PartitionTimeLimit submit"
    submit.scancel(runner, [job])
    assert stage.until_state(job, "CANCELLED").time_limit_min == 2880
    many = submit.sbatch(runner, script(stage, "--nodes=9"), env=runner.environment)
    stage.until(lambda: stage.queued(many) == "PENDING PartitionNodeLimit submit", "its reason")


def test_ids_that_are_gone(stage: Stage) -> None:
    """scancel of a job that ended or never was is fine; a requeue of it is not."""
    job = stage.submit("true")
    stage.until_state(job, "COMPLETED")
    submit.scancel(stage.runner, [job])
    submit.scancel(stage.runner, [job, "999999"])
    with pytest.raises(SlurmUnavailableError, match="Invalid job id"):
        submit.requeue(stage.runner, "999999")


def test_a_controller_that_is_away(stage: Stage) -> None:
    """It refuses connections: no answer is an empty queue, and no submission counts as refused by Slurm."""
    path = script(stage)
    stage.stop_controller()
    with pytest.raises(SlurmUnavailableError, match="Unable to contact slurm controller"):
        queue.snapshot(stage.runner)
    with pytest.raises(HpcpoolsError) as failed:
        submit.sbatch(stage.runner, path, env=stage.runner.environment)
    assert isinstance(failed.value, SlurmUnavailableError | SubmissionUnknownError)
    assert accounting.history(stage.runner, time.time()).available
    stage.start_controller()
    assert stage.living() == []


def test_a_controller_that_says_nothing(stage: Stage) -> None:
    """Our own patience ends the command; nothing has changed when it answers again."""
    job = stage.submit("sleep 600", "--time=5")
    stage.until_state(job, "RUNNING")
    runner = stage.runner
    runner.timeout = 1.0
    with stage.silence(), pytest.raises(SlurmUnavailableError, match="did not answer in time"):
        queue.snapshot(runner)
    assert stage.queued(job) == "RUNNING submit start nodes"
