"""The lab itself: what it proves about Slurm, and that its ways to break Slurm do break it."""

from __future__ import annotations

from pathlib import Path

from tests.cluster import processes
from tests.cluster.cluster import Cluster


def submit(cluster: Cluster, tmp_path: Path, script: str, *options: str) -> str:
    """Submit a script and return the job id; its output goes to tmp_path/out."""
    argv = (
        "sbatch",
        "--parsable",
        "-o",
        str(tmp_path / "out"),
        "-D",
        str(tmp_path),
        *options,
        "--wrap",
        script,
    )
    return cluster.run(*argv).stdout.strip()


def ended(cluster: Cluster, job: str) -> str:
    """Wait until the job has left the running states and return the state sacct gives."""
    live = ("", "PENDING", "RUNNING", "COMPLETING", "REQUEUED")
    return cluster.wait(lambda: (s := cluster.sacct(job)) not in live and s, 30, f"job {job} ends")  # type: ignore[return-value]


def test_job_completes_in_accounting(cluster: Cluster, tmp_path: Path) -> None:
    """A batch job runs to the end, and sacct says COMPLETED."""
    assert ended(cluster, submit(cluster, tmp_path, "echo hello")) == "COMPLETED"
    assert (tmp_path / "out").read_text() == "hello\n"


def test_a_step_sees_the_gpus_only_when_asked_for(cluster: Cluster, tmp_path: Path) -> None:
    """--exclusive takes the node but gives a step no GPU; --gpus-per-node gives all four."""
    show = "srun printenv CUDA_VISIBLE_DEVICES"
    whole = ("--exclusive", f"--gpus-per-node={cluster.gpus_per_node}", "--mem=0")
    assert ended(cluster, submit(cluster, tmp_path, show, *whole)) == "COMPLETED"
    assert (tmp_path / "out").read_text() == "0,1,2,3\n"
    ended(cluster, submit(cluster, tmp_path, f"{show} || echo none", "--exclusive"))
    assert "none" in (tmp_path / "out").read_text().splitlines()


def test_plain_lab_has_no_accounting(plain_cluster: Cluster, tmp_path: Path) -> None:
    """Without accounting a job runs all the same and sacct refuses to answer."""
    job = submit(plain_cluster, tmp_path, "echo hello")
    plain_cluster.wait(
        lambda: "JobState=COMPLETED" in plain_cluster.run("scontrol", "show", "job", job).stdout
    )
    refusal = plain_cluster.run("sacct", check=False)
    assert refusal.returncode == 1
    assert "accounting storage is disabled" in refusal.stderr


def test_a_timed_out_submission_may_exist(cluster: Cluster, tmp_path: Path) -> None:
    """sbatch to a frozen controller fails with a time-out, and the job is there when it thaws."""
    with cluster.controller_paused():
        argv = ("sbatch", "-J", "ghost", "-o", str(tmp_path / "out"), "--wrap", "sleep 60")
        failed = cluster.run(*argv, check=False, timeout=60)
    assert failed.returncode != 0
    assert "Socket timed out" in failed.stderr
    cluster.wait(lambda: cluster.run("squeue", "-h", "-n", "ghost").stdout, 20, "the ghost job is listed")


def test_a_stopped_controller_refuses_and_comes_back(cluster: Cluster, tmp_path: Path) -> None:
    """A stopped slurmctld refuses connections; started again it still knows the running job."""
    job = submit(cluster, tmp_path, "sleep 60")
    cluster.wait(lambda: cluster.jobs().get(job) == "RUNNING")
    cluster.stop_controller()
    assert "Unable to contact slurm controller" in cluster.run("sinfo", check=False).stderr
    cluster.start_controller()
    assert cluster.jobs()[job] == "RUNNING"


def test_a_lost_node_requeues_its_job(cluster: Cluster, tmp_path: Path) -> None:
    """Power cut on a node: the job is requeued and, the node back, runs with SLURM_RESTART_COUNT=1."""
    note = f"echo restart=${{SLURM_RESTART_COUNT:-0}} >> {tmp_path}/starts; sleep 60"
    job = submit(cluster, tmp_path, note, "-w", "n2", "--requeue")
    starts = tmp_path / "starts"
    cluster.wait(starts.exists, 20, "first start")
    cluster.kill_node("n2")
    assert processes.on_node("n2", processes.members(cluster.conf)) == []
    cluster.wait(lambda: cluster.jobs().get(job) == "PENDING", 60, "job requeued")
    every_start = ("sacct", "-D", "-X", "-n", "-P", "-j", job, "-o", "State")  # lags behind squeue
    cluster.wait(lambda: "NODE_FAIL" in cluster.run(*every_start).stdout, 30, "accounting has the failure")
    cluster.start_node("n2")
    cluster.wait(lambda: len(starts.read_text().splitlines()) == 2, 30, "second start")
    assert starts.read_text().splitlines() == ["restart=0", "restart=1"]
