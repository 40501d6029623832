"""`hpcpools failures` and `retry`: groups over both pools, and only the chosen one is tried again."""

from __future__ import annotations

from typing import Any

import pytest

from tests.project import Project


def groups(project: Project) -> dict[str, dict[str, Any]]:
    """Group id → facts."""
    return {row["group"]: row for row in project.json("failures")["groups"]}


def test_one_group_is_retried_the_others_are_left_alone(laptop: Project) -> None:
    """Three short jobs of one kind, a training of another."""
    laptop.cli("up")
    jobs = {laptop.json("enqueue", "usertasks:broken")["job"] for _ in range(3)}
    token = laptop.train("usertasks:fail")
    laptop.until_state(token, "FAILED")
    laptop.until(lambda: sum(row["count"] for row in groups(laptop).values()) == 4, "four failures")
    found = groups(laptop)
    assert sorted(row["count"] for row in found.values()) == [1, 3]
    (short,) = [row for row in found.values() if row["pools"] == "short"]
    assert set(short["names"]) == jobs
    assert "a broken task" in short["what"]
    assert (
        "the loss is made of cheese"
        in laptop.cli("failures", "--group", next(g for g in found if g != short["group"])).stdout
    )
    assert set(laptop.json("retry", "--group", short["group"], "--dry-run")["retried"]) == jobs
    assert {row["count"] for row in groups(laptop).values()} == {1, 3}
    assert set(laptop.json("retry", "--group", short["group"])["retried"]) == jobs
    assert laptop.json("show", token)["attempts"][-1]["number"] == 1
    again = laptop.json("retry", token)
    assert again["retried"] == [token]
    laptop.until(lambda: len(laptop.json("show", token)["attempts"]) == 2, "a second attempt")
    laptop.until_state(token, "FAILED")
    assert laptop.cli("retry", "--group", "nothing", check=False).returncode == 3
    assert laptop.cli("retry", check=False).returncode == 2


@pytest.mark.slurm
def test_failed_trainings_are_submitted_again(site: Project) -> None:
    """On Slurm: the same run, a new job; one that runs or succeeded is refused."""
    failed, good = site.train("usertasks:fail"), site.train("usertasks:learn", "steps=1")
    site.until_state(failed, "FAILED")
    site.until_state(good, "COMPLETED")
    assert site.cli("retry", good, check=False).returncode == 4
    before = site.json("show", failed)["job_id"]
    assert site.json("retry", failed)["retried"] == [failed]
    site.until(lambda: len(site.json("show", failed)["attempts"]) == 2, "a second attempt")
    site.until_state(failed, "FAILED")
    assert site.json("show", failed)["job_id"] != before
