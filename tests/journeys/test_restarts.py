"""Training that survives: time limit, preemption, lost nodes, memory; and the breaker."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.cluster import Cluster
from tests.project import Project


def scan(site: Project) -> None:
    """What the scheduler does every five minutes, until it starts something again."""
    site.until(lambda: site.json("upkeep", "scan_failed_jobs")["restarted"], "a restart")


def until_due(site: Project, token: str, number: int) -> None:
    """Wait until the run says that it will be started again."""
    wanted = f"restart {number} of"
    site.until(lambda: wanted in str(site.json("show", token)["reason"]), wanted)


def test_a_training_longer_than_its_time_limit_finishes(site: Project) -> None:
    """Warned before the limit it saves, asks for a requeue, and goes on in the next slot."""
    site.env["HPCPOOLS_TRAINING__SIGNAL_LEAD"] = "30s"
    token = site.train("usertasks:slow", "steps=90", "pace=0.5", "--time", "1m")
    site.cli("wait", token, timeout=240)
    shown = site.json("show", token)
    assert (shown["state"], shown["step"]) == ("COMPLETED", 90)
    assert site.json("result", token) == 90
    assert len(shown["attempts"]) >= 2
    assert {attempt["job_id"] for attempt in shown["attempts"]} == {shown["job_id"]}
    assert "resumed at 0\n" not in site.cli("logs", token).stdout


def test_a_preempted_training_resumes(site: Project, cluster: Cluster, tmp_path: Path) -> None:
    """A job of the upper partition takes the node; Slurm requeues, the training resumes from its step."""
    site.cli("up", "redis")
    token = site.train("usertasks:slow", "steps=100000", "pace=0.1", "--partition", "low", "--gpus", "1")
    site.until(lambda: (site.json("show", token)["step"] or 0) > 5, "some steps")
    until = f"until={tmp_path / 'go'}"
    upper = [site.train("usertasks:hold", until, "--gpus", "1") for _ in range(3)]
    for one in upper:  # three exclusive trainings on three nodes: one must take ours
        site.until_state(one, "RUNNING", timeout=60)
    (tmp_path / "go").write_text("")
    site.until(lambda: len(site.json("show", token)["attempts"]) == 2, "a second attempt", timeout=90)
    site.until(lambda: "resumed at" in site.cli("logs", token, "--attempt", "2").stdout, "it resumes")
    assert "resumed at 0" not in site.cli("logs", token, "--attempt", "2").stdout
    site.cli("cancel", token)
    site.until_state(token, "CANCELLED", timeout=90)


def test_a_lost_node_costs_one_interval(site: Project, cluster: Cluster) -> None:
    """The node dies under the training: Slurm requeues it, elsewhere or there, and it finishes."""
    token = site.train("usertasks:slow", "steps=60", "pace=0.2")
    site.until(lambda: (site.json("show", token)["step"] or 0) > 5, "some steps")
    node = site.attempt(token)["node"]
    cluster.kill_node(node)
    site.until(lambda: len(site.json("show", token)["attempts"]) == 2, "a second attempt", timeout=120)
    cluster.start_node(node)
    site.cli("wait", token, timeout=120)
    shown = site.json("show", token)
    assert (shown["state"], shown["step"]) == ("COMPLETED", 60)
    assert "resumed at 0" not in site.cli("logs", token, "--attempt", "2").stdout


def test_upkeep_restarts_what_slurm_did_not(site: Project) -> None:
    """A user error with a budget: a new job of the same run, from its checkpoint; then the breaker."""
    site.cli("up", "redis")
    site.env["HPCPOOLS_RESTARTS__FIRST_DELAY"] = "1s"
    token = site.train("usertasks:slow", "steps=6", "crash_at=3", "pace=0.05", "--restart", "user_error=3")
    until_due(site, token, 1)
    scan(site)
    site.cli("wait", token)
    shown = site.json("show", token)
    assert (shown["state"], shown["step"]) == ("COMPLETED", 6)
    assert len({attempt["job_id"] for attempt in shown["attempts"]}) == 2
    assert "resumed at 3" in site.cli("logs", token, "--attempt", "2").stdout


def test_no_progress_opens_the_breaker(site: Project) -> None:
    """It crashes before its first checkpoint: no budget restarts that."""
    token = site.train("usertasks:slow", "steps=6", "save=false", "crash_at=1", "--restart", "user_error=9")
    site.until_state(token, "FAILED")
    assert "breaker open" in site.json("show", token)["reason"]
    assert len(site.json("show", token)["attempts"]) == 1


def test_out_of_memory_halves_what_the_user_named(site: Project) -> None:
    """32 → 16 → 8 fits: the run completes with the smaller value; its request is unchanged."""
    site.cli("up", "redis")
    token = site.train("usertasks:hungry", "batch=32", "--on-oom", "halve:batch:4")
    for number in (1, 2):
        until_due(site, token, number)
        scan(site)
    site.cli("wait", token)
    assert site.json("result", token) == 8
    assert site.json("show", token)["arguments"] == {"batch": 32}
