"""Jobs of every kind of life, as hpcpools reads them from squeue and sacct: the same on both stages."""

from __future__ import annotations

from pathlib import Path

from hpcpools.slurm import submit
from tests.parity.stage import Stage


def test_three_ends(stage: Stage) -> None:
    """Success with a step, a user's error, a signal."""
    good = stage.submit("srun true")
    bad = stage.submit("exit 3")
    killed = stage.submit("kill -9 $$")
    for job in (good, bad, killed):
        stage.until_state(job, "COMPLETED", "FAILED")
    assert [stage.queued(job) for job in (good, bad, killed)] == [
        "COMPLETED exit=0 submit start end nodes",
        "FAILED NonZeroExitCode exit=3 submit start end nodes",
        "FAILED JobLaunchFailure signal=9 submit start end nodes",
    ]
    stage.until_accounted(
        good, "COMPLETED exit=0 submit start end nodes [batch COMPLETED exit=0] [0 COMPLETED exit=0]"
    )
    stage.until_accounted(bad, "FAILED exit=3 submit start end nodes [batch FAILED exit=3]")
    stage.until_accounted(killed, "FAILED signal=9 submit start end nodes [batch CANCELLED signal=9]")


def test_whatever_waits_can_be_cancelled(stage: Stage) -> None:
    """Held, too early, waiting for what failed: not in accounting until then. And a running one."""
    bad = stage.submit("exit 3")
    stage.until_state(bad, "FAILED")
    waiting = {
        "JobHeldUser": stage.submit("true", "--hold"),
        "BeginTime": stage.submit("true", "--begin=now+1hour"),
        "DependencyNeverSatisfied": stage.submit("true", f"--dependency=afterok:{bad}"),
    }
    running = stage.submit("echo ready; sleep 600", "--time=5")
    out = stage.folder / f"out.{running}"
    stage.until(lambda: out.exists() and out.read_text(), "it runs")
    for reason, job in waiting.items():
        stage.until(lambda job=job, reason=reason: reason in stage.queued(job), reason)  # type: ignore[misc]
        assert stage.queued(job) == f"PENDING {reason} submit"
        assert stage.accounted(job) == []
    assert stage.queued(running) == "RUNNING submit start nodes"
    stage.until_accounted(running, "RUNNING submit start nodes [batch RUNNING]")
    stage.run("scancel", running, *waiting.values())
    stage.until_state(running, "CANCELLED")
    assert stage.queued(running) == "CANCELLED signal=15 submit start end nodes"
    stage.until_accounted(running, "CANCELLED submit start end nodes [batch CANCELLED signal=15]")
    for reason, job in waiting.items():
        assert stage.queued(job) == f"CANCELLED {reason} submit end"
        stage.until_accounted(job, "CANCELLED submit end")


def test_a_full_partition(stage: Stage) -> None:
    """Exclusive jobs on its three nodes; the next waits for resources, the one after it for its priority."""
    busy = [stage.submit("sleep 600", "--exclusive", "--time=5") for _ in range(3)]
    for job in busy:
        stage.until_state(job, "RUNNING")
    assert len({stage.jobs()[job].nodes for job in busy}) == 3
    first, second = (stage.submit("true", "--exclusive", "--time=5") for _ in range(2))
    stage.until(lambda: "Priority" in stage.queued(second), "the second waits for the first")
    assert stage.queued(first) == "PENDING Resources submit"
    assert stage.queued(second) == "PENDING Priority submit"
    stage.until_accounted(first, "PENDING submit")
    stage.run("scancel", *busy)
    for job in (first, second):
        stage.until_state(job, "COMPLETED")


def test_a_released_job_runs(stage: Stage) -> None:
    """Held by its user; squeue forgets the reason with the release."""
    job = stage.submit("true", "--hold")
    assert stage.queued(job) == "PENDING JobHeldUser submit"
    stage.run("scontrol", "release", job)
    stage.until_state(job, "COMPLETED")
    assert stage.queued(job) == "COMPLETED exit=0 submit start end nodes"


def test_an_array_with_a_throttle(stage: Stage) -> None:
    """Two of five at once; each element has its own id, index and output; the rest is cancelled as one."""
    go = stage.folder / "go"
    script = f"i=$SLURM_ARRAY_TASK_ID; echo $SLURM_ARRAY_JOB_ID $i; until [ -e {go}$i ]; do sleep 0.1; done"
    array = stage.submit(script, "--array=0-4%2", "--output=out.%A.%a")
    ids = [f"{array}_{index}" for index in range(5)]
    for job in ids[:2]:
        stage.until_state(job, "RUNNING")
    stage.until(lambda: "JobArrayTaskLimit" in stage.queued(ids[2]), "the limit is the reason")
    assert [stage.queued(job) for job in ids] == [
        *["RUNNING submit start nodes"] * 2,
        *["PENDING JobArrayTaskLimit submit"] * 3,
    ]
    Path(f"{go}0").touch()
    stage.until_state(ids[2], "RUNNING")
    assert [stage.jobs()[job].state for job in ids] == [
        "COMPLETED",
        "RUNNING",
        "RUNNING",
        "PENDING",
        "PENDING",
    ]
    for index in range(3):
        out = stage.folder / f"out.{array}.{index}"
        stage.until(lambda out=out: out.exists() and out.read_text(), "its output")  # type: ignore[misc]
        assert out.read_text() == f"{array} {index}\n"
    stage.run("scancel", array)
    for job in ids[1:3]:
        stage.until_state(job, "CANCELLED")
    for job in ids[3:]:
        assert stage.queued(job) == "CANCELLED JobArrayTaskLimit submit end"
        stage.until_accounted(job, "CANCELLED submit end")


def test_a_requeued_job(stage: Stage) -> None:
    """The same id, one restart more, told to the script; accounting keeps both attempts."""
    go = stage.folder / "go"
    job = stage.submit(f"echo start ${{SLURM_RESTART_COUNT:-0}}; until [ -e {go} ]; do sleep 0.1; done")
    out = stage.folder / f"out.{job}"
    stage.until(lambda: out.exists() and "start" in out.read_text(), "its first start")
    stage.run("scontrol", "requeue", job)
    stage.until(lambda: stage.jobs()[job].restarts == 1, "a restart")
    stage.until_state(job, "RUNNING")
    go.touch()
    stage.until_state(job, "COMPLETED")
    assert stage.queued(job) == "COMPLETED exit=0 restarts=1 submit start end nodes"
    assert out.read_text() == "start 1\n"
    stage.until_accounted(
        job,
        "REQUEUED submit start end nodes [batch CANCELLED signal=15]",
        "COMPLETED exit=0 submit start end nodes [batch COMPLETED exit=0]",
    )


def test_a_preemption_that_cancels(stage: Stage) -> None:
    """Where a partition's jobs are not requeued, preemption is their end."""
    job = stage.submit("echo ready; sleep 600", "--exclusive", "--partition=low", "--time=5")
    out = stage.folder / f"out.{job}"
    stage.until(lambda: out.exists() and out.read_text(), "it runs")
    stage.preempt(job, "cancel")
    stage.until_state(job, "PREEMPTED")
    assert stage.queued(job) == "PREEMPTED signal=15 submit start end nodes"
    stage.until_accounted(job, "PREEMPTED submit start end nodes [batch CANCELLED signal=15]")


def test_what_a_job_sees(stage: Stage) -> None:
    """The environment of the batch script, and of both tasks of its step on two exclusive nodes."""
    names = ["JOB_ID", "JOB_NODELIST", "JOB_NUM_NODES", "CPUS_ON_NODE", "NTASKS"]
    names += ["PROCID", "NODEID", "LOCALID", "RESTART_COUNT", "GPUS_ON_NODE"]
    show = " ".join(f"${{SLURM_{name}-none}}" for name in names)
    (stage.folder / "show.sh").write_text(f"echo {show} ${{CUDA_VISIBLE_DEVICES-none}}\n")
    options = ("--nodes=2", "--ntasks-per-node=1", "--exclusive", "--gpus-per-node=2", "--mem=0", "--time=5")
    job = stage.submit("bash show.sh; srun --output=task.%t bash show.sh", *options, "--nodelist=n[1-2]")
    stage.until_state(job, "COMPLETED")
    seen = [(stage.folder / name).read_text().strip() for name in (f"out.{job}", "task.0", "task.1")]
    common = f"{job} n[1-2] 2 8 2"
    assert seen == [
        f"{common} 0 0 0 none 4 0,1,2,3",
        f"{common} 0 0 0 none 2 0,1",
        f"{common} 1 1 0 none 2 0,1",
    ]
    assert stage.jobs()[job].nodes == "n[1-2]"


def test_a_signal_reaches_the_step(stage: Stage) -> None:
    """scancel with a signal: the step's processes get it, the batch script does not."""
    trap = "trap 'echo {who} got it; exit 4' USR2"
    (stage.folder / "step.sh").write_text(
        f"{trap.format(who='step')}\necho ready\nwhile :; do sleep 0.1; done\n"
    )
    job = stage.submit(f"{trap.format(who='script')}\nsrun bash step.sh; echo step $?", "--time=5")
    out = stage.folder / f"out.{job}"
    stage.until(lambda: out.exists() and "ready" in out.read_text(), "it waits for the signal")
    submit.scancel(stage.runner, [job], signal="USR2")
    stage.until_state(job, "COMPLETED")
    said = [line for line in out.read_text().splitlines() if line.startswith(("ready", "step", "script"))]
    assert said == ["ready", "step got it", "step 4"]
    stage.until_accounted(
        job, "COMPLETED exit=0 submit start end nodes [batch COMPLETED exit=0] [0 FAILED exit=4]"
    )
