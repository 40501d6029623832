"""Trainings on a real Slurm: every way to end, whole nodes, requeue, and what the node sees."""

from __future__ import annotations

import re
from pathlib import Path

from tests.cluster.cluster import Cluster
from tests.parity.stage import Stage
from tests.project import Project


def test_a_training_gets_the_whole_node(site: Project, cluster: Cluster, tmp_path: Path) -> None:
    """All GPUs and CPUs of the node, torch's variables, no inherited job, no secret, no Redis."""
    inherited = {"SLURM_JOB_ID": "999999", "SLURM_NTASKS": "7", "RANK": "5", "CANARY_TOKEN": "xyzzy-canary"}
    site.env.update(inherited)
    token = site.train("usertasks:see")
    site.cli("wait", token)
    seen = site.json("result", token)
    assert len(seen["devices"].split(",")) == cluster.gpus_per_node
    assert seen["env"]["SLURM_CPUS_PER_TASK"] == seen["env"]["SLURM_CPUS_ON_NODE"] == "8"
    assert seen["env"]["SLURM_JOB_ID"] != "999999"
    assert seen["env"]["SLURM_NTASKS"] == "1"
    assert seen["torch"][0] == "127.0.0.1"
    assert seen["torch"][1:] == ["0", "1", "0"]
    assert seen["secret"] == []
    assert seen["redis"] is False
    shown = site.json("show", token)
    assert (shown["state"], shown["exit_code"], shown["engine"]) == ("COMPLETED", 0, "slurm")
    assert shown["node"] in cluster.nodes
    for path in (site.root / token).rglob("*"):
        assert not path.is_file() or b"xyzzy-canary" not in path.read_bytes()


def test_the_token_is_in_the_job_s_name_and_comment(site: Project, cluster: Cluster, tmp_path: Path) -> None:
    """The identity of a run outside Redis and outside Slurm's reused ids."""
    token = site.train("usertasks:hold", f"until={tmp_path / 'go'}")
    shown = cluster.run("scontrol", "show", "job", site.json("show", token)["job_id"]).stdout
    assert f"JobName={token}" in shown
    assert f"Comment={token}" in shown
    assert "OverSubscribe=NO" in shown
    (tmp_path / "go").write_text("")
    site.cli("wait", token)


def test_a_failed_training(play: Project, stage: Stage) -> None:
    """FAILED, exit code 1, a user error, not retryable; the verdict is kept by the scan."""
    token = play.train("usertasks:fail")
    assert play.cli("wait", token, check=False).returncode == 5
    shown = play.json("show", token)
    assert (shown["state"], shown["cause"], shown["exit_code"]) == ("FAILED", "user error", 1)
    assert "made of cheese" in shown["reason"]
    assert "Traceback" in play.cli("logs", token).stdout
    assert stage.queued(shown["job_id"]) == "FAILED NonZeroExitCode exit=1 submit start end nodes"
    steps = "[batch FAILED exit=1] [0 FAILED exit=1]"
    stage.until_accounted(shown["job_id"], f"FAILED exit=1 submit start end nodes {steps}")
    play.cli("up", "redis")
    assert play.json("upkeep", "scan_failed_jobs")["verdicts"]["user error"] == 1
    verdict = play.json("show", token)["verdict"]
    assert (verdict["retryable"], verdict["cause"]) == (False, "user error")


def test_cancelled_by_us_and_by_scancel(play: Project, stage: Stage, tmp_path: Path) -> None:
    """Both end CANCELLED; ours keeps the wish on record."""
    ours, theirs = (play.train("usertasks:hold", f"until={tmp_path / 'never'}") for _ in range(2))
    for token in (ours, theirs):
        play.until_state(token, "RUNNING")
    play.cli("cancel", ours)
    stage.run("scancel", play.json("show", theirs)["job_id"])
    for token in (ours, theirs):
        play.until_state(token, "CANCELLED", timeout=90)
        assert play.json("show", token)["cause"] == "cancelled"


def test_the_time_limit(play: Project, stage: Stage, tmp_path: Path) -> None:
    """A training deaf to the warning runs into its limit: TIMEOUT, retryable."""
    token = play.train("usertasks:deaf", f"until={tmp_path / 'never'}", "--time", "1m")
    play.until(lambda: "deaf" in play.cli("logs", token).stdout, "it runs")
    stage.pass_minutes(2)
    play.until_state(token, "TIMEOUT", timeout=150)
    assert play.json("show", token)["cause"] == "time limit"
    play.cli("up", "redis")
    assert token in play.json("upkeep", "scan_failed_jobs")["retryable"]


def test_two_trainings_never_share_a_node(site: Project, cluster: Cluster, tmp_path: Path) -> None:
    """Four trainings of one GPU each on three nodes: three run, each on a node of its own; one waits."""
    go = tmp_path / "go"
    tokens = [site.train("usertasks:hold", f"until={go}", "--gpus", "1") for _ in range(4)]
    states = site.until(
        lambda: (
            sorted(found)
            if (found := [row["state"] for row in site.json("runs")["runs"]]).count("RUNNING") == 3
            else None
        ),
        "three run",
    )
    assert states == ["PENDING", "RUNNING", "RUNNING", "RUNNING"]
    nodes = [row["node"] for row in site.json("runs", "--state", "RUNNING")["runs"]]
    assert len(set(nodes)) == 3
    go.write_text("")
    site.cli("wait", *tokens)
    assert {site.state(token) for token in tokens} == {"COMPLETED"}


def test_a_requeued_training_resumes(play: Project, stage: Stage, tmp_path: Path) -> None:
    """scontrol requeue: the same run, a second attempt with its own log, from the newest checkpoint."""
    (play.folder / "script.py").write_text(
        "import time, hpcpools\n"
        "from pathlib import Path\n"
        "run = hpcpools.current_run()\n"
        "found = run.resume()\n"
        "print('resumed at', found.step if found else None, flush=True)\n"
        "if not found:\n"
        "    with run.checkpoint(41) as folder: (folder / 'x').write_text('x')\n"
        f"while not Path({str(tmp_path / 'go')!r}).exists(): time.sleep(0.05)\n"
    )
    import sys

    token = play.train("--gpus", "1", "--launcher", "single", "--", sys.executable, "script.py")
    play.until(lambda: "resumed at None" in play.cli("logs", token).stdout, "the first attempt")
    play.until(lambda: play.json("show", token)["checkpoints"], "its checkpoint")
    job_id = play.json("show", token)["job_id"]
    stage.run("scontrol", "requeue", job_id)
    (tmp_path / "go").write_text("")
    play.until(lambda: len(play.json("show", token)["attempts"]) == 2, "a second attempt", timeout=90)
    play.cli("wait", token)
    shown = play.json("show", token)
    assert (shown["state"], shown["job_id"]) == ("COMPLETED", job_id)
    assert [attempt["restart"] for attempt in shown["attempts"]] == [0, 1]
    assert "resumed at None" in play.cli("logs", token, "--attempt", "1").stdout
    assert "resumed at 41" in play.cli("logs", token, "--attempt", "2").stdout


def test_one_process_per_gpu(site: Project) -> None:
    """Two GPUs: two ranks through torch's elastic launcher, which can talk; rank 0's value is kept."""
    token = site.train("usertasks:ranks")
    site.cli("wait", token)
    assert site.json("result", token) == [[0, 0, True], [1, 1, True]]
    shown = site.json("show", token)
    assert [item["step"] for item in shown["checkpoints"]] == [1]


def test_the_script_is_shown_and_tested(site: Project, cluster: Cluster) -> None:
    """--dry-run prints what would be sent and makes nothing; --check asks sbatch --test-only."""
    script = site.cli("train", "usertasks:learn", "--gpus", "2", "--dry-run").stdout
    assert script.startswith("#!/bin/bash")
    for line in ("--exclusive", "--gpus-per-node=2", "--mem=0", "--nodes=1", "--ntasks-per-node=1"):
        assert f"#SBATCH {line}\n" in script
    assert "--wckey" not in script
    assert re.search(r"#SBATCH --comment=hp-\w{26}\n", script)
    checked = site.cli("train", "usertasks:learn", "--check").stdout
    assert "to start at" in checked
    assert not site.root.exists() or not list(site.root.glob("hp-*"))
    assert cluster.jobs() == {}


def test_init_asks_the_site(site: Project, cluster: Cluster) -> None:
    """Partitions, GPUs per node and limits stand in the new file, which is valid."""
    (site.folder / "hpcpools.toml").unlink()
    site.cli("init", "--module", "usertasks")
    text = (site.folder / "hpcpools.toml").read_text()
    assert 'partition = "gpu"' in text
    assert "[training.partitions.gpu]" in text
    assert "gpus_per_node = 4" in text
    assert 'max_time = "1-00:00:00"' in text
    assert site.cli("init", check=False).returncode == 2
    assert "usertasks:learn" in site.cli("tasks").stdout


def test_without_accounting(plain_site: Project, plain_cluster: Cluster, tmp_path: Path) -> None:
    """sacct refuses: completed, failed and cancelled are still told apart."""
    good = plain_site.train("usertasks:learn")
    bad = plain_site.train("usertasks:fail")
    plain_site.cli("wait", good)
    plain_site.cli("wait", bad, check=False)
    assert plain_site.state(good) == "COMPLETED"
    assert plain_site.json("show", bad)["cause"] == "user error"
    gone = plain_site.train("usertasks:hold", f"until={tmp_path / 'never'}")
    plain_site.until_state(gone, "RUNNING")
    plain_cluster.run("scancel", plain_site.json("show", gone)["job_id"])
    plain_site.until_state(gone, "CANCELLED", timeout=90)


def test_the_engine_can_be_chosen(site: Project) -> None:
    """On a cluster `--on local` goes to the machine's own slot; `status` shows the automatic choice."""
    token = site.train("usertasks:learn", "steps=1", "--on", "local")
    site.cli("wait", token)
    assert site.json("show", token)["engine"] == "local"
    assert site.json("status")["training"]["engine"] == "slurm"


def test_short_tasks_answer_while_training_holds_its_node(
    site: Project, cluster: Cluster, tmp_path: Path
) -> None:
    """The three services on the login node; one squeue brings state and progress into the index."""
    token = site.train("usertasks:hold", f"until={tmp_path / 'go'}")
    site.until_state(token, "RUNNING")
    site.cli("up")
    assert {row["name"] for row in site.json("ps") if row["state"] == "running"} == {
        "redis",
        "short",
        "scheduler",
    }
    done = site.cli("enqueue", "usertasks:evaluate", "ckpt=x", "--wait")
    assert '"ckpt": "x"' in done.stdout
    summary = site.json("enqueue", "hpcpools.maintenance:update_job_metrics", "--wait")["result"]
    assert summary["states"] == {"RUNNING": 1}
    assert summary["slurm_as_of"]
    (tmp_path / "go").write_text("")
    site.cli("wait", token)


def test_the_template_works_by_hand(site: Project, cluster: Cluster, tmp_path: Path) -> None:
    """sbatch_templates/training.sbatch, three lines edited: a whole node with its GPUs."""
    text = (Path(__file__).parents[2] / "sbatch_templates" / "training.sbatch").read_text()
    wanted = "command=(bash -c 'echo $CUDA_VISIBLE_DEVICES $SLURM_CPUS_PER_TASK')"
    text = text.replace("command=(python train.py)", wanted)
    (tmp_path / "training.sbatch").write_text(text)
    out = tmp_path / "out.log"
    cluster.run(
        "sbatch", "--wait", f"--chdir={tmp_path}", f"--output={out}", str(tmp_path / "training.sbatch")
    )
    assert out.read_text().split() == ["0,1,2,3", "8"]
