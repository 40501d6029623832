"""Where a pipeline stands: the state of each stage from its own record and its parents' states. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from hpcpools.pipeline.definition import Definition, Stage, edges, order


class StageState(str, Enum):
    """The life of a stage's newest try."""

    WAITING = "WAITING"  # for another stage
    READY = "READY"  # may be submitted
    RUNNING = "RUNNING"  # given to its pool; it may still queue there
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    SKIPPED = "SKIPPED"  # left out because of a failure, as declared
    BLOCKED = "BLOCKED"  # held by a failure; `retry` lets it go on


LIVE = {StageState.WAITING, StageState.READY, StageState.RUNNING}
_UNSUCCESSFUL = {StageState.FAILED, StageState.CANCELLED}


@dataclass(frozen=True)
class Fact:
    """What is on record of a stage's newest try; ``ended`` is "", completed, failed or cancelled."""

    submitted: bool = False
    ended: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Standing:
    """A state and why it is so, in words."""

    state: StageState
    why: str = ""


def standings(
    definition: Definition, facts: Mapping[str, Fact], *, cancelled: bool = False
) -> dict[str, Standing]:
    """Every stage, in an order that respects what they wait for."""
    found: dict[str, Standing] = {}
    for name in order(definition):
        fact = facts.get(name, Fact())
        if fact.ended:
            found[name] = Standing(StageState(fact.ended.upper()), fact.reason)
        elif fact.submitted:
            found[name] = Standing(StageState.RUNNING, "its end was asked for" if cancelled else "")
        elif cancelled:
            found[name] = Standing(StageState.CANCELLED, "the pipeline was cancelled before it started")
        else:
            found[name] = _by_parents(definition, definition.stages[name], found)
    return found


def overall(definition: Definition, found: Mapping[str, Standing], *, cancelled: bool = False) -> str:
    """RUNNING, COMPLETED, FAILED or CANCELLED.

    FAILED if a stage is blocked, or one failed whose own ``on_failure`` is ``stop``.
    """
    if any(standing.state in LIVE for standing in found.values()):
        return "RUNNING"
    if cancelled:
        return "CANCELLED"
    failed = any(
        standing.state is StageState.BLOCKED
        or (standing.state in _UNSUCCESSFUL and definition.stages[name].on_failure == "stop")
        for name, standing in found.items()
    )
    return "FAILED" if failed else "COMPLETED"


def _by_parents(definition: Definition, stage: Stage, found: Mapping[str, Standing]) -> Standing:
    waits, skips = [], []
    for name, edge in edges(stage).items():
        policy = edge.on_failure or definition.stages[name].on_failure
        state = found[name].state
        if state is StageState.BLOCKED:
            return Standing(StageState.BLOCKED, f"{name} is blocked")
        if state in _UNSUCCESSFUL and policy == "stop":
            return Standing(StageState.BLOCKED, f"{name} {state.value}")
        if state in LIVE:
            waits.append(name)
        elif state is not StageState.COMPLETED and policy != "continue":
            skips.append(f"{name} {state.value}")
    if skips:
        return Standing(StageState.SKIPPED, ", ".join(skips))
    if waits:
        return Standing(StageState.WAITING, f"waits for {', '.join(waits)}")
    return Standing(StageState.READY)
