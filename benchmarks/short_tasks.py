"""Short tasks through every system on the same Redis: rates, latency, round trips, memory, CPU.

Per system and round: a fresh Redis, the queue filled by one client, the workers started on it, then idle,
then one task at a time. The systems take their turns in shuffled order, and ratios are paired in a round.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import figures, machine, stamps
from benchmarks.systems import BASE, SYSTEMS, System, hpcpools_app

KINDS = {"plain": (3000, 400), "torch": (1200, 40)}  # tasks to drain, single tasks for the latency
COLUMNS = ("drain", "p50_ms", "p99_ms", "round_trips", "enqueue", "enqueue_many")
LATENCY = ("p50_ms", "p99_ms")
MORE = ("pss_mib", "processes", "cpu_idle_percent", "cpu_ms")
PACKAGES = ("rq", "celery", "huey", "taskiq", "taskiq-redis", "dramatiq", "redis", "hiredis", "torch")
DRAIN_LIMIT = 600.0  # seconds
IDLE = 5.0  # seconds without work, for memory and CPU
SETTLE = 2.0  # seconds for the workers to come to rest


class Turn:
    """One system's turn in one round."""

    def __init__(self, system: System, kind: str, folder: Path, persistence: str) -> None:
        self.system, self.folder = system, folder
        self.stamps = folder / "stamps"
        self.redis = machine.Redis(folder, system.persistence or persistence)
        tasks = system.tasks_for(kind)
        told = system.environment(self.redis.socket, tasks)
        self.env = machine.environment(**{stamps.VARIABLE: str(self.stamps)}, **told)
        self.workers: list[subprocess.Popen[bytes]] = []
        hpcpools_app.write_project(folder, tasks, system.settings)

    def client(self, action: str, first: int, number: int) -> Any:
        """What one enqueuing process measured."""
        words = [self.system.app, action, str(first), str(number)]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.client", *words],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
            timeout=DRAIN_LIMIT,
        )
        if done.returncode != 0:
            raise machine.PatienceError(f"{self.system.name}: client failed: {done.stderr[-2000:]}")
        return json.loads(done.stdout)

    def drain(self, tasks: int) -> dict[str, float]:
        """Fill the queue, start the workers on it, and read the slope of the starts."""
        half = tasks // 2
        single = self.client("single", 0, half)["rate"]
        many = self.client("bulk", half, tasks - half)["rate"]
        self.start()
        marks = []
        for share in (0.1, 0.9):
            self._await(int(tasks * share))
            marks.append((stamps.count(self.stamps), self.redis.round_trips(), self._cpu()))
        self._await(tasks)
        (first, trips, used), (last, more_trips, more_used) = marks
        between = max(1, last - first)
        return {
            "drain": stamps.rate(stamps.read(self.stamps)),
            "enqueue": single,
            "enqueue_many": many,
            "round_trips": (more_trips - trips - 1) / between,
            "cpu_ms": (more_used - used) / between * 1000,
        }

    def start(self) -> None:
        """Start the workers."""
        for argv in self.system.commands(self.folder):
            self.workers.append(machine.start(argv, self.env, self.folder / "log"))

    def warm_up(self, tasks: int) -> None:
        """Start the workers and let them do some tasks, all of which are done when this returns."""
        self.start()
        self.client("single", 0, tasks)
        self._await(tasks)
        time.sleep(SETTLE)

    def idle(self, seconds: float) -> dict[str, float]:
        """Memory and CPU of the workers at rest, after they have worked."""
        time.sleep(SETTLE)
        used = self._cpu()
        time.sleep(seconds)
        pids = machine.tree(self.workers)
        return {
            "cpu_idle_percent": (self._cpu() - used) / seconds * 100,
            "pss_mib": machine.pss(pids),
            "processes": len(pids),
        }

    def latency(self, first: int, number: int) -> dict[str, float]:
        """One task at a time."""
        seconds = self.client("latency", first, number)["seconds"][number // 10 :]
        return {
            "p50_ms": figures.quantile(seconds, 0.5) * 1e3,
            "p99_ms": figures.quantile(seconds, 0.99) * 1e3,
        }

    def stop(self) -> None:
        """End workers and Redis."""
        for worker in self.workers:
            machine.end(worker)
        self.redis.stop()

    def _cpu(self) -> float:
        return machine.cpu(machine.tree(self.workers))

    def _await(self, number: int) -> None:
        def enough() -> bool:
            if any(worker.poll() is not None for worker in self.workers):
                raise machine.PatienceError("a worker ended")
            return stamps.count(self.stamps) >= number

        machine.until(enough, f"{self.system.name}: {number} tasks started", DRAIN_LIMIT, 0.002)


def take(
    system: System, kind: str, tasks: int, singles: int, options: argparse.Namespace
) -> dict[str, float]:
    """All measures of one system in one round."""
    share = system.torch_share if kind == "torch" else system.share
    number = max(40, int(tasks * share))
    if share < 0.1:  # a second each
        singles = min(singles, 12)
    with machine.folder() as folder:
        turn = Turn(system, kind, folder, options.persistence)
        try:
            if options.only == "latency":
                turn.warm_up(number)
                return turn.latency(number, singles)
            found = turn.drain(number)
            found |= turn.idle(options.idle)
            return found | turn.latency(number, singles)
        except (machine.PatienceError, subprocess.TimeoutExpired):
            log = folder / "log"
            print(log.read_text(errors="replace")[-3000:] if log.exists() else "", file=sys.stderr)
            raise
        finally:
            turn.stop()


def in_turns(kind: str, options: argparse.Namespace) -> tuple[list[dict[str, dict[str, float]]], list[float]]:
    """All rounds of one kind; beside them the memory of one process that only imports torch, each round."""
    tasks, singles = options.tasks or KINDS[kind][0], options.singles or KINDS[kind][1]
    systems = [name for name in options.systems if SYSTEMS[name].tasks_for(kind)]
    rounds: list[dict[str, dict[str, float]]] = []
    floors: list[float] = []
    for number in range(options.rounds):
        if kind == "torch" and not options.only:
            floors.append(machine.bare_pss("torch"))
        this: dict[str, dict[str, float]] = {}
        for name in random.sample(systems, len(systems)):
            this[name] = take(SYSTEMS[name], kind, tasks, singles, options)
            first, value = next(iter(this[name].items()))
            print(f"{kind} round {number + 1}: {name}: {first} {value:.4g}", file=sys.stderr)
        rounds.append({name: this[name] for name in systems})
    return rounds, floors


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="benchmarks short_tasks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, help="to drain; fewer than the default is a smoke test")
    parser.add_argument("--systems", nargs="*", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--persistence", default="none", choices=["none", "everysec", "always"])
    parser.add_argument("--idle", type=float, default=IDLE, help="seconds at rest")
    parser.add_argument("--singles", type=int, help="tasks one at a time, for the latency")
    parser.add_argument("--only", choices=["latency"], help="that alone, printed and not kept")
    options, _ = parser.parse_known_args(argv)
    result: dict[str, Any] = {}
    for kind in options.kinds:
        rounds, floors = in_turns(kind, options)
        print(f"\n{kind} tasks, {options.rounds} rounds, ratios to {BASE} within a round")
        print(figures.table(rounds, BASE, LATENCY if options.only else COLUMNS))
        if not options.only:
            print(figures.table(rounds, BASE, MORE))
        result[kind] = {"rounds": rounds, "systems": figures.summary(rounds, BASE)}
        if floors:
            result[kind]["floor"] = {"pss_mib": figures.spread(floors).as_dict()}
    if options.only:
        return 0
    smoke = options.rounds < 3 or options.tasks is not None or options.singles is not None
    how = {
        "rounds": options.rounds,
        "persistence": options.persistence,
        "transport": "unix socket",
        "versions": figures.versions(*PACKAGES),
    }
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        how["scheduling"] = "real time"  # `chrt -r 5`: whatever else runs on the machine waits
    figures.save("short_tasks", result, smoke=smoke, **how)
    return 0


if __name__ == "__main__":
    sys.exit(main())
