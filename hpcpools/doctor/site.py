"""Slurm: the settings that decide whether a training survives, and whether two ever met on one node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from hpcpools.config import Config
from hpcpools.doctor.finding import Finding, fail, ok, warn
from hpcpools.runs import directory
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.states import RunState
from hpcpools.runs.view import View, read_view
from hpcpools.slurm import site
from hpcpools.slurm.partition import expand
from hpcpools.slurm.site import Site
from hpcpools.training import engine, saving

SHORT_WAIT = 30  # seconds: less KillWait than Slurm's default


def check(config: Config) -> Iterator[Finding]:
    """One sinfo, two scontrol. Raises SlurmUnavailableError."""
    yield from exclusive(_running(config))
    if engine.choose(config) == "local":
        yield ok("slurm", "there is none here: the local slot serves trainings, one at a time")
        return
    runner = engine.runner(config)
    there = site.read_site(runner)
    yield from judge(there, config.training.partition)
    for name in {config.training.partition, *config.training.partitions}:
        notice = saving.read_notice(config, runner, name, max_age=saving.KEPT)
        if notice.grace is not None and not notice.early:
            where = name or "the default partition"
            text = f"jobs of {where} are preempted with TERM alone, GraceTime {notice.grace} s"
            yield warn("preemption", text, "ask for PreemptParameters=send_user_signal; save often")


def judge(there: Site, partition: str) -> Iterator[Finding]:
    """Findings from the site's settings. Pure."""
    yield ok("slurm", f"Slurm {there.version}, cluster {there.cluster_name}")
    mine = there.partition(partition)
    if mine is None:
        name = f"partition {partition}" if partition else "default partition"
        fix = f"set training.partition to one of {', '.join(each.name for each in there.partitions)}"
        yield fail("partition", f"there is no {name}", fix)
    elif mine.state != "up":
        yield warn("partition", f"{mine.name} is {mine.state}", "jobs wait; ask the administrators")
    elif not mine.gpus_per_node:
        yield warn(
            "partition", f"the nodes of {mine.name} have no GPU", "set training.partition to a GPU one"
        )
    else:
        yield ok("partition", f"{mine.name}: {mine.nodes} nodes with {mine.gpus_per_node} GPUs")
    if there.has_accounting:
        yield ok("accounting", "sacct tells how jobs ended")
    else:
        text = "no accounting: how a job ended is known from its node only, and for MinJobAge "
        yield warn("accounting", f"{text}({there.min_job_age_s} s)", "ask for slurmdbd")
    if there.kill_wait_s < SHORT_WAIT:
        text = f"KillWait is {there.kill_wait_s} s: what is not saved by then is lost"
        yield warn("killwait", text, "keep checkpoints quicker than that; `hpcpools train --check` compares")
    if not there.job_requeue:
        yield ok("requeue", "JobRequeue=0, but each training asks for --requeue itself")


def exclusive(running: list[View]) -> Iterator[Finding]:
    """Whether each running training has its node for itself, by what the nodes wrote. Pure."""
    places = {
        view.token: set(expand(view.attempt.nodelist or view.attempt.node))
        for view in running
        if view.attempt
    }
    counts = Counter(node for nodes in places.values() for node in nodes)
    shared = {node for node, count in counts.items() if count > 1}
    if shared:
        tokens = [token for token, nodes in places.items() if nodes & shared]
        text = f"trainings share {', '.join(sorted(shared))}: {', '.join(tokens)}"
        yield fail("exclusive", text, "cancel all but one, and report this: it must not happen")
    else:
        yield ok("exclusive", f"{len(running)} trainings run, none shares a node with another")


def _running(config: Config) -> list[View]:
    views = [read_view(RunDirectory(config.root, token)) for token in directory.live_tokens(config.root)]
    return [view for view in views if view.state is RunState.RUNNING]
