"""Telling people: what is worth a notification, in which words, and each one once.

Owns the events, their text and the marks of what was told. Delivery is a short task per receiver, retried by
the pool; refuses to send anything from here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from hpcpools import eventlog
from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError, RedisUnavailableError
from hpcpools.eventlog import log
from hpcpools.redisdb import keys
from hpcpools.redisdb.outage import told
from hpcpools.runs import telemetry
from hpcpools.runs.nodes import Node
from hpcpools.runs.states import RunState
from hpcpools.runs.view import View
from hpcpools.short.enqueue import Client
from hpcpools.textsafe import one_line

RUN_FINISHED, RUN_FAILED = "run_finished", "run_failed"
BREAKER_OPEN, QUARANTINE = "breaker_open", "quarantine"
GPU_VERDICT = "gpu_verdict"
TASK = "hpcpools.maintenance:deliver_notification"
REMEMBERED = 30 * 86400  # seconds for which the same event is not told again
LONGEST = 500  # characters of one fact

_TITLES = {
    RUN_FINISHED: "training finished",
    RUN_FAILED: "training failed",
    BREAKER_OPEN: "training is not restarted any more",
    QUARANTINE: "node is quarantined",
    GPU_VERDICT: "training does not use its GPUs well",
}
_SHOWN = ("run", "label", "what", "node", "verdict", "policy", "step", "state", "cause", "reason")


def receivers(config: Config, event: str) -> tuple[str, ...]:
    """Who is told of ``event``: ``hook`` and ``webhook``, as far as they are configured. Pure."""
    settings = config.notify
    if event not in settings.events:
        return ()
    asked = (("hook", settings.hook), ("webhook", settings.webhook_file))
    return tuple(name for name, setting in asked if setting)


def emit(config: Config, event: str, facts: Mapping[str, Any], key: str) -> int:
    """Have ``event`` told once, however often this is called with the same ``key``; the tasks queued for it.

    ``facts`` are plain JSON values. Nothing is configured: nothing happens. A refusal is logged, never
    raised; raises RedisUnavailableError, upon which the caller shall call again.
    """
    safe = _safe(facts)
    queued = 0
    for receiver in receivers(config, event):
        job_id = identity(event, key, receiver)
        try:
            queued += _once(Client.of(config), job_id, {"event": event, "facts": safe, "receiver": receiver})
        except RedisUnavailableError:
            raise
        except HpcpoolsError as error:
            ids = {"run": facts.get("run"), "slurm_job": facts.get("job_id") or None}
            log.error(eventlog.event("notify-fail", **ids, about=event, receiver=receiver, error=error))
    return queued


def _once(client: Client, job_id: str, arguments: dict[str, Any]) -> int:
    mark = keys.key("told", job_id)
    with told():
        if client.connection.exists(mark):
            return 0
        client.enqueue(TASK, arguments, job_id=job_id)  # the same id: harmless to repeat until it is marked
        client.connection.set(mark, 1, ex=REMEMBERED)
    return 1


def run_ended(config: Config, view: View) -> int:
    """Tell the end of a run; a cancelled one is not news to whoever cancelled it."""
    if view.state is RunState.CANCELLED or not view.state.is_final:
        return 0
    event = RUN_FINISHED if view.state is RunState.COMPLETED else RUN_FAILED
    facts = {
        "run": view.token,
        "label": view.request.label,
        "what": view.request.what,
        "state": view.state.value,
        "cause": view.cause.value,
        "reason": view.reason,
        "exit_code": view.exit_code,
        "node": view.attempt.where if view.attempt else "",
        "job_id": view.job_id,
        "attempts": len(view.attempts),
        "ended": view.since,
    }
    key = f"{view.token}:{view.state.value}:{len(view.attempts)}"
    told = emit(config, event, facts, key)
    if view.breaker:
        told += emit(config, BREAKER_OPEN, facts, key)
    return told


def gpu_verdicts(config: Config, view: View) -> int:
    """Tell what the nodes announced of a run's GPUs: each verdict once in an attempt."""
    if not receivers(config, GPU_VERDICT):
        return 0
    told = 0
    for attempt in view.attempts:
        for verdict, line in telemetry.announced(attempt).items():
            facts = {
                "run": view.token,
                "label": view.request.label,
                "what": view.request.what,
                "verdict": verdict,
                "policy": line.get("policy"),
                "step": line.get("step"),
                "at": line.get("at"),
                "node": attempt.where,
                "job_id": attempt.job_id,
                "gpus": view.request.resources.all_gpus,
                "state": view.state.value,
            }
            told += emit(config, GPU_VERDICT, facts, f"{view.token}:{attempt.path.name}:{verdict}")
    return told


def quarantined(config: Config, node: Node) -> int:
    """Tell that all runs avoid a node now; once for each time it happens."""
    until = node.quarantined_until or 0.0
    facts = {"node": node.name, "runs": list(node.runs), "until": until, "failures": len(node.failures)}
    return emit(config, QUARANTINE, facts, f"{node.name}:{len(node.failures)}:{until:.0f}")


def identity(event: str, key: str, receiver: str) -> str:
    """The id of the delivery: the same for the same news to the same receiver."""
    digest = hashlib.sha256(json.dumps([event, key]).encode()).hexdigest()[:32]
    return f"notify-{digest}-{receiver}"


def text(event: str, facts: Mapping[str, Any]) -> str:
    """One line for people, safe for any terminal or chat."""
    told = [f"{name}: {facts[name]}" for name in _SHOWN if facts.get(name) not in (None, "")]
    return one_line(f"hpcpools: {_TITLES.get(event, event)}; " + ", ".join(told), 1000)


def _safe(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts with all text escaped and cut; what is no plain value becomes text."""
    return {
        one_line(str(name), 64): value
        if value is None or isinstance(value, (bool, int, float))
        else one_line(value if isinstance(value, str) else json.dumps(value, default=str), LONGEST)
        for name, value in facts.items()
    }
