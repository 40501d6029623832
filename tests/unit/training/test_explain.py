"""Golden answers for runs, from facts alone; the real cluster's are in tests/journeys/test_explain.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from hpcpools.runs.metrics import Progress
from hpcpools.runs.request import Request, Resources
from hpcpools.runs.states import Cause, RunState
from hpcpools.runs.view import View
from hpcpools.slurm.partition import Line, Nodes, Standing, parse_line, parse_standing
from hpcpools.training.explain import Facts, explain, second_question

NOW = 1_000_000.0
TOKEN = "hp-" + "0" * 26
REQUEST = Request(TOKEN, NOW - 3600, "slurm", Resources(gpus=4, minutes=720, partition="gpu"), command=("x",))
WAITING = View(
    REQUEST, RunState.PENDING, NOW - 3000, NOW - 20, 0, "77", (), detail="PENDING", reason="Resources"
)


def view(**changes: Any) -> Facts:
    """The facts of a run that differs from WAITING."""
    return Facts(structs.replace(WAITING, **changes), NOW)


GOLDEN = [
    (view(), "Resources", "Wait"),
    (view(reason="JobHeldUser"), "JobHeldUser", "scontrol release 77"),
    (view(reason="PartitionTimeLimit"), "PartitionTimeLimit", "shorter --time"),
    (view(detail="REQUEUE_HOLD", reason=""), "REQUEUE_HOLD", "scontrol release 77"),
    (view(detail="CONFIGURING", reason=""), "CONFIGURING", "Wait"),
    (view(detail="", reason=""), "", "Ask again"),
    (
        view(restart_kind="preemption", not_before=NOW + 60, cause=Cause.PREEMPTED),
        "Restart",
        "scan_failed_jobs",
    ),
    (view(state=RunState.SUBMITTING, detail="unsettled"), "Unsettled", "Do not submit it again"),
    (view(state=RunState.SUBMITTING, detail="interrupted"), "Interrupted", "Submit it again"),
    (view(state=RunState.SUBMITTING, detail=""), "Submitting", "upkeep settles"),
    (view(state=RunState.RUNNING, detail="RUNNING", reason=""), "Silent", f"hpcpools logs {TOKEN}"),
    (view(state=RunState.RUNNING, detail="SUSPENDED", reason=""), "SUSPENDED", "Wait"),
    (view(state=RunState.RUNNING, cancel_asked=True), "Cancelling", "Wait"),
    (view(state=RunState.COMPLETED, detail=""), "COMPLETED", f"hpcpools result {TOKEN}"),
    (view(state=RunState.FAILED, cause=Cause.USER_ERROR), "user error", "correct it"),
    (view(state=RunState.TIMEOUT, cause=Cause.TIME_LIMIT), "time limit", "longer --time"),
    (view(state=RunState.OUT_OF_MEMORY, cause=Cause.OUT_OF_MEMORY), "out of memory", "smaller batch"),
    (view(state=RunState.LOST, cause=Cause.LOST), "lost", "administrators"),
]


@pytest.mark.parametrize(("facts", "code", "action"), GOLDEN, ids=lambda value: str(value)[:20])
def test_golden_answers(facts: Facts, code: str, action: str) -> None:
    """State and reason decide; the action names the run or the job."""
    answer = explain(facts)
    assert answer.code == code
    assert action in answer.action


def test_every_cause_has_words() -> None:
    """No end of a run is explained by nothing."""
    for cause in Cause:
        if cause is not Cause.NONE:
            answer = explain(view(state=RunState.FAILED, cause=cause))
            assert answer.cause
            assert answer.action


def test_nodes_out_of_service_change_the_cause() -> None:
    """Resources is only half the truth where nodes are drained: then Slurm's forecast stands on sand."""
    some = Standing(
        "gpu", "up", 1440, (Nodes("allocated", 2, "n[1-2]", ""), Nodes("drained", 1, "n3", "disk"))
    )
    answer = explain(replace(view(), standing=some, expected=NOW + 600, running=2, gpus=8))
    assert "1 of 3 nodes are out of service" in answer.cause
    assert "1 node drained: n3 (disk)" in answer.evidence
    assert answer.starts == NOW + 600
    none = Standing("gpu", "up", None, (Nodes("down", 3, "n[1-3]", "power"),))
    assert explain(replace(view(), standing=none)).cause == "No node of the partition is in service."


def test_who_is_before_it() -> None:
    """Priority: how many of the others come first; a forecast in the past is none."""
    facts = replace(view(reason="Priority"), line=Line(waiting=6, before=4), expected=NOW - 5)
    answer = explain(facts)
    assert "4 of 5 other waiting jobs come first" in answer.evidence
    assert answer.starts is None


def test_the_second_question() -> None:
    """Only a waiting job is worth one more call, and only the one that tells something."""
    assert second_question(view(reason="Priority").view) == "line"
    assert second_question(view(reason="Resources").view) == "nodes"
    assert second_question(view(reason="PartitionTimeLimit").view) == "nodes"
    assert second_question(view(reason="JobHeldUser").view) == ""
    assert second_question(view(reason="QOSMaxGRESPerUser").view) == ""
    assert second_question(view(state=RunState.RUNNING).view) == ""
    assert second_question(view(restart_kind="preemption").view) == ""


def test_a_running_training_tells_its_last_step() -> None:
    """A step a minute ago is well; silence for longer than a quarter of an hour is said."""
    running = view(state=RunState.RUNNING, detail="RUNNING", reason="")
    answer = explain(replace(running, progress=Progress(120, 1000, NOW - 60, {})))
    assert answer.code == "Running"
    assert any("last step 120/1000, 1m" in text for text in answer.evidence)
    assert explain(replace(running, progress=Progress(120, None, NOW - 2000, {}))).code == "Silent"


def test_slurm_is_silent() -> None:
    """The controller is down: what was known is explained, with its age and Slurm's words."""
    answer = explain(replace(view(), error="Unable to contact slurm controller", as_of=NOW - 500))
    assert answer.code == "Resources"
    assert any("Unable to contact" in text for text in answer.evidence)
    assert answer.as_of == NOW - 20


def test_what_sinfo_and_squeue_print() -> None:
    """Parsed with a separator that no text can forge; flags of a node's state are cut off."""
    text = (
        "gpu*  |up  |1-00:00:00  |drained*  |1  |n3  |new disks  |\ngpu*|up|1-00:00:00|idle|2|n[1-2]|none|\n"
    )
    found = parse_standing(text, "|")
    assert found is not None
    assert (found.name, found.state, found.max_minutes) == ("gpu", "up", 1440)
    assert found.nodes == (Nodes("drained", 1, "n3", "new disks"), Nodes("idle", 2, "n[1-2]", ""))
    waiting = "7_[1-3]|500|\n8|900|\n9|100|\n"
    assert parse_line(waiting, "|", "7_2") == Line(3, 1)
    assert parse_line(waiting, "|", "12") is None
