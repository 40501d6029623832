"""Training that survives: time limit, preemption, lost nodes, memory; and the breaker."""

from __future__ import annotations

from tests.parity.stage import Stage
from tests.project import Project


def scan(site: Project) -> None:
    """What the scheduler does every five minutes, until it starts something again."""
    site.until(lambda: site.json("upkeep", "scan_failed_jobs")["restarted"], "a restart")


def until_due(site: Project, token: str, number: int) -> None:
    """Wait until the run says that it will be started again."""
    wanted = f"restart {number} of"
    site.until(lambda: wanted in str(site.json("show", token)["reason"]), wanted)


def test_a_training_longer_than_its_time_limit_finishes(play: Project, stage: Stage) -> None:
    """Warned before the limit it saves, asks for a requeue, and goes on in the next slot."""
    play.env["HPCPOOLS_TRAINING__SIGNAL_LEAD"] = "30s"
    token = play.train("usertasks:slow", "steps=90", f"pace={stage.pace}", "--time", "1m")
    play.until(lambda: (play.json("show", token)["step"] or 0) > 1, "some steps")
    stage.pass_minutes(1)
    play.cli("wait", token, timeout=240)
    shown = play.json("show", token)
    assert (shown["state"], shown["step"]) == ("COMPLETED", 90)
    assert play.json("result", token) == 90
    assert len(shown["attempts"]) >= 2
    assert {attempt["job_id"] for attempt in shown["attempts"]} == {shown["job_id"]}
    assert "resumed at 0\n" not in play.cli("logs", token).stdout


def test_a_preempted_training_resumes(play: Project, stage: Stage) -> None:
    """A job of the upper partition takes the node; Slurm requeues, the training resumes from its step."""
    play.cli("up", "redis")
    token = play.train("usertasks:slow", "steps=100000", "pace=0.1", "--partition", "low", "--gpus", "1")
    play.until(lambda: (play.json("show", token)["step"] or 0) > 5, "some steps")
    stage.preempt(play.json("show", token)["job_id"])
    play.until(lambda: len(play.json("show", token)["attempts"]) == 2, "a second attempt", timeout=90)
    play.until(lambda: "resumed at" in play.cli("logs", token, "--attempt", "2").stdout, "it resumes")
    assert "resumed at 0" not in play.cli("logs", token, "--attempt", "2").stdout
    play.cli("cancel", token)
    play.until_state(token, "CANCELLED", timeout=90)


def test_a_lost_node_costs_one_interval(play: Project, stage: Stage) -> None:
    """The node dies under the training: Slurm requeues it, elsewhere or there, and it finishes."""
    token = play.train("usertasks:slow", "steps=60", "pace=0.2")
    play.until(lambda: (play.json("show", token)["step"] or 0) > 5, "some steps")
    node = play.attempt(token)["node"]
    stage.lose_node(node)
    play.until(lambda: len(play.json("show", token)["attempts"]) == 2, "a second attempt", timeout=120)
    stage.repair_node(node)
    play.cli("wait", token, timeout=120)
    shown = play.json("show", token)
    assert (shown["state"], shown["step"]) == ("COMPLETED", 60)
    assert "resumed at 0" not in play.cli("logs", token, "--attempt", "2").stdout


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
