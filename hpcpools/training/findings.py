"""What is looked up to explain a run: its files, the shared poll cache, at most two questions to Slurm.

Owns the budget of questions. Refuses to fail when Slurm is silent: what was known before is explained.
"""

from __future__ import annotations

import contextlib
import time

from hpcpools import atomic
from hpcpools.config import Config
from hpcpools.errors import HpcpoolsError
from hpcpools.runs import directory, metrics
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.states import RunState
from hpcpools.runs.view import View, read_view
from hpcpools.slurm import partition
from hpcpools.slurm.command import Runner
from hpcpools.training import engine, watch
from hpcpools.training.explain import Facts, second_question

FRESH = 10.0  # seconds: the oldest answer of Slurm that an explanation is content with
QUESTIONS = 2


def gather(config: Config, run: RunDirectory, *, slot_alive: bool = True) -> Facts:
    """All facts about ``run``; ``slot_alive`` is for the caller to know. Raises NotFoundError."""
    runner: Runner | None = engine.runner(config)
    if read_view(run).state.is_final or runner is None or not runner.available():
        runner = None
    before = _asked(runner)
    seen = watch.refresh(config, runner, max_age=min(FRESH, float(config.slurm.poll_interval)))
    view = read_view(run)
    own = [each for each in seen.views if each.state is RunState.RUNNING and each.request.engine == "slurm"]
    poll = watch.load_poll(config.root)
    waiting = poll.waiting.get(view.token, {})
    verdict = atomic.read_json(run.verdict_file)
    facts = Facts(
        view,
        time.time(),
        as_of=seen.as_of if view.request.engine == "slurm" else None,
        error=seen.error if view.request.engine == "slurm" else "",
        expected=waiting.get("expected"),
        progress=metrics.progress(run.metrics_file),
        retryable=verdict.get("retryable") if isinstance(verdict, dict) else None,
        running=len(own),
        gpus=sum(each.request.resources.all_gpus for each in own),
        ahead=_ahead(config, view),
        slot_alive=slot_alive,
    )
    name = waiting.get("partition") or view.request.resources.partition
    asked = _asked(runner) - before
    if runner is None or not name or seen.error or asked >= QUESTIONS:
        return facts
    return _ask(runner, facts, name)


def _ask(runner: Runner, facts: Facts, name: str) -> Facts:
    """The second question, if its answer would tell something."""
    from dataclasses import replace

    question = second_question(facts.view)
    with contextlib.suppress(HpcpoolsError):
        if question == "line":
            return replace(facts, line=partition.line(runner, name, facts.view.job_id))
        if question == "nodes":
            return replace(facts, standing=partition.standing(runner, name))
    return facts


def _asked(runner: Runner | None) -> int:
    return sum(calls.count for calls in runner.calls.values()) if runner else 0


def _ahead(config: Config, view: View) -> int:
    """Local trainings before this one; 0 on Slurm."""
    if view.request.engine != "local" or view.state is not RunState.PENDING:
        return 0
    count = 0
    for token in directory.live_tokens(config.root):
        if token >= view.token:
            break
        with contextlib.suppress(HpcpoolsError):
            other = read_view(RunDirectory(config.root, token))
            count += other.request.engine == "local" and not other.state.is_final
    return count
