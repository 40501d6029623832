"""Where a pipeline stands: every policy, from facts alone."""

from __future__ import annotations

import pytest

from hpcpools.pipeline.decide import Fact, StageState, overall, standings
from hpcpools.pipeline.definition import Definition, parse

DONE, BAD, ENDED = Fact(True, "completed"), Fact(True, "failed", "cheese"), Fact(True, "cancelled")
ASKED, NONE = Fact(True), Fact()


def chain(**policies: str) -> Definition:
    """a → b → c, and d on its own; ``policies`` are the stages' on_failure."""
    after = {"a": [], "b": ["a"], "c": ["b"], "d": []}
    stages = {
        name: {"task": "m:f", "after": before, "on_failure": policies.get(name, "stop")}
        for name, before in after.items()
    }
    return parse({"stages": stages}, "test")


def words(definition: Definition, facts: dict[str, Fact], cancelled: bool = False) -> str:
    """The states by their first two letters, then the whole's state."""
    found = standings(definition, facts, cancelled=cancelled)
    states = " ".join(found[name].state.value[:2] for name in "abcd")
    return f"{states} {overall(definition, found, cancelled=cancelled)}"


@pytest.mark.parametrize(
    ("policies", "facts", "expected"),
    [
        ({}, {}, "RE WA WA RE RUNNING"),
        ({}, {"a": ASKED, "d": DONE}, "RU WA WA CO RUNNING"),
        ({}, {"a": DONE}, "CO RE WA RE RUNNING"),
        ({}, {"a": DONE, "b": DONE, "c": DONE, "d": DONE}, "CO CO CO CO COMPLETED"),
        ({}, {"a": BAD}, "FA BL BL RE RUNNING"),  # what does not depend on it goes on
        ({}, {"a": BAD, "d": DONE}, "FA BL BL CO FAILED"),
        ({}, {"a": ENDED, "d": DONE}, "CA BL BL CO FAILED"),  # someone cancelled the run itself
        ({"a": "skip"}, {"a": BAD, "d": DONE}, "FA SK SK CO COMPLETED"),
        ({"a": "skip", "b": "continue"}, {"a": BAD, "d": DONE}, "FA SK RE CO RUNNING"),
        ({"a": "continue"}, {"a": BAD, "d": DONE}, "FA RE WA CO RUNNING"),
        ({"a": "continue"}, {"a": BAD, "b": DONE, "c": DONE, "d": DONE}, "FA CO CO CO COMPLETED"),
        ({"a": "continue"}, {"a": BAD, "b": BAD, "d": DONE}, "FA FA BL CO FAILED"),
        ({"d": "skip"}, {"a": DONE, "b": DONE, "c": DONE, "d": BAD}, "CO CO CO FA COMPLETED"),
    ],
)
def test_policies(policies: dict[str, str], facts: dict[str, Fact], expected: str) -> None:
    """stop blocks, skip leaves out, continue goes on; independent stages are not touched."""
    assert words(chain(**policies), facts) == expected


def test_cancelled() -> None:
    """What has not started never does; what runs is awaited; what ended stays."""
    assert words(chain(), {"a": DONE, "b": ASKED}, True) == "CO RU CA CA RUNNING"
    assert words(chain(), {"a": DONE, "b": ENDED}, True) == "CO CA CA CA CANCELLED"


def test_an_edge_overrules_its_stage() -> None:
    """after = [{stage, on_failure}]; a block beats a skip, a skip beats a wait."""
    found = parse(
        {
            "stages": {
                "a": {"task": "m:f"},
                "b": {"task": "m:f", "on_failure": "skip"},
                "w": {"task": "m:f"},
                "go": {"task": "m:f", "after": [{"stage": "a", "on_failure": "continue"}]},
                "out": {"task": "m:f", "after": ["b", "w"]},
                "held": {"task": "m:f", "after": ["a", "b", "w"]},
            }
        },
        "test",
    )
    states = {
        name: standing.state for name, standing in standings(found, {"a": BAD, "b": BAD, "w": ASKED}).items()
    }
    assert states["go"] is StageState.READY
    assert states["out"] is StageState.SKIPPED
    assert states["held"] is StageState.BLOCKED


def test_the_reason_is_kept() -> None:
    """Of the failure, and of what it holds."""
    found = standings(chain(), {"a": BAD})
    assert (found["a"].why, found["b"].why, found["c"].why) == ("cheese", "a FAILED", "b is blocked")
