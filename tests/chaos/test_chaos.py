"""Chaos: node kills, preemptions and controller pauses over live trainings; an outside checker judges.

A short storm in `make test`; `make chaos` makes it 30 runs and more than ten minutes.
"""

from __future__ import annotations

import os
import random
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from tests.cluster.cluster import Cluster
from tests.project import Project

RUNS = int(os.environ.get("HPCPOOLS_CHAOS_RUNS", "4"))
SECONDS = float(os.environ.get("HPCPOOLS_CHAOS_SECONDS", "25"))
STEPS = 40
SEED = 7


def test_every_training_finishes_whatever_happens(site: Project, cluster: Cluster, tmp_path: Path) -> None:
    """0 lost, 0 overlapping attempts, every run at its full step count."""
    log = tmp_path / "outside.log"
    site.env.update(HPCPOOLS_RESTARTS__FIRST_DELAY="1s", HPCPOOLS_RESTARTS__WITHOUT_PROGRESS="50")
    site.cli("up", "redis")
    options = ("--partition", "low", "--gpus", "1", "--restart", "node_failure=99")
    tokens = [site.train("usertasks:chaotic", f"steps={STEPS}", f"log={log}", *options) for _ in range(RUNS)]
    storm(site, cluster, tmp_path, random.Random(SEED))
    cluster.heal()

    def finished() -> bool:
        site.cli("upkeep", "scan_failed_jobs")
        rows = {row["run"]: row["state"] for row in site.json("runs", "-n", "1000")["runs"]}
        states = [rows[token] for token in tokens]
        assert not set(states) & {"FAILED", "LOST", "CANCELLED", "OUT_OF_MEMORY", "TIMEOUT"}, rows
        return set(states) == {"COMPLETED"}

    site.until(finished, "all runs complete", timeout=240 + 30 * RUNS)
    judge(tokens, log.read_text().splitlines())


def storm(site: Project, cluster: Cluster, tmp_path: Path, chance: random.Random) -> None:
    """Random faults, one after the other, for the given time."""
    started = 0

    def kill_node() -> None:
        node = chance.choice(cluster.nodes[:3])
        cluster.kill_node(node)
        cluster.start_node(node)

    def preempt() -> None:
        nonlocal started
        started += 1
        go = tmp_path / f"go-{started}"
        token = site.train("usertasks:hold", f"until={go}", "--gpus", "1", "--time", "2m")
        wait_some(chance.uniform(2, 6))
        go.write_text("")
        site.cli("wait", token, check=False, timeout=180)

    def pause_controller() -> None:
        with cluster.controller_paused():
            wait_some(chance.uniform(1, 8))

    faults: list[Callable[[], None]] = [kill_node, preempt, pause_controller]
    deadline = time.monotonic() + SECONDS
    chance.shuffle(faults)
    while time.monotonic() < deadline:
        for fault in faults:
            fault()


def wait_some(seconds: float) -> None:
    """The length of a fault, which is chance's, not a wait for a condition."""
    time.sleep(seconds)


def judge(tokens: list[str], lines: list[str]) -> None:
    """Read what the trainings themselves wrote; hpcpools is not asked."""
    spans: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    last: dict[str, int] = {}
    for line in lines:
        token, pid, what, step, at = line.split()
        spans[token][pid].append(float(at))
        if what == "done":
            last[token] = int(step)
    assert last == dict.fromkeys(tokens, STEPS)
    for token, processes in spans.items():
        times = sorted((min(moments), max(moments)) for moments in processes.values())
        for (_, end), (begin, _) in pairwise(times):
            assert end <= begin, f"{token}: two processes lived at once: {times}"
