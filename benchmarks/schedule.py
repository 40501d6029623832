"""A task each second for a minute: slots lost, drift per firing, lateness; beside stock rq-scheduler.

Both run at the same time, each with a Redis of its own, and an observer takes what they push. A slot is a
whole second; how late its job is, is the observer's clock minus that second.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import redis

from benchmarks import figures, machine
from hpcpools.schema import DEFAULT_SCHEDULE

POLL = 1.0  # seconds; what both are given
DRIFT = 0.1  # ms per firing that count as none: the noise of a minute on a shared machine
OURS, STOCK = "hpcpools", "rq-scheduler --interval 1"
FILES = {
    "hpcpools.toml": '[project]\nmodules = ["beats"]\n[redis]\nurl = "unix://{socket}"\n'
    '[services]\nruntime_dir = "run"\nautostart = false\n[schedule.beat]\ntask = "beats:beat"\nevery = 1\n'
    + "".join(f"[schedule.{name}]\nenabled = false\nevery = 60\n" for name in DEFAULT_SCHEDULE),
    "beats.py": "from hpcpools import task\n\n\n@task(queue='maintenance')\ndef beat() -> None:\n"
    '    """Nothing."""\n',
    "stock.py": """
import sys
from datetime import datetime, timezone
from redis import Redis
from rq_scheduler import Scheduler
scheduler = Scheduler("maintenance", connection=Redis(unix_socket_path=sys.argv[1]), interval=1)
scheduler.schedule(datetime.now(timezone.utc), "time.time", interval=1, result_ttl=0)
scheduler.run()
""",
}
Firing = tuple[float, str]  # when the observer had it, the job's id


class Observer(threading.Thread):
    """Takes every job out of a queue as soon as it is there."""

    def __init__(self, socket: Path) -> None:
        super().__init__(daemon=True)
        self.seen: list[Firing] = []
        self._client = redis.Redis(unix_socket_path=str(socket))

    def run(self) -> None:
        """Until the Redis ends."""
        try:
            while True:
                found: Any = self._client.blpop(["rq:queue:maintenance"], timeout=5)
                if found:
                    self.seen.append((time.time(), found[1].decode()))
        except redis.RedisError:
            return


def slot_of_ours(firing: Firing, number: int, first: float) -> float:
    """It stands in the id."""
    return float(firing[1].rpartition("-")[2])


def slot_of_stock(firing: Firing, number: int, first: float) -> float:
    """The n-th firing is for the n-th second after the one of the first."""
    return first // 1 + number


def measured(
    seen: Sequence[Firing], seconds: int, slot_of: Callable[[Firing, int, float], float]
) -> dict[str, float]:
    """The figures of the first ``seconds`` slots; lengths in milliseconds."""
    slots = [slot_of(each, number, seen[0][0]) for number, each in enumerate(seen)]
    late = {slot: at - slot for (at, _), slot in zip(seen, slots, strict=True) if slot < slots[0] + seconds}
    inside = [at for at, _ in seen if at < slots[0] + seconds + POLL]
    slopes = [(late[b] - late[a]) / (b - a) for a, b in combinations(sorted(late), 2)]
    return {
        "fired": float(len(late)),
        "lost": float(max(0, seconds - min(len(late), len(inside)))),
        "twice": float(len(slots) - len(set(slots))),
        "drift ms": statistics.median(slopes) * 1000,
        "late p50 ms": statistics.median(late.values()) * 1000,
        "late max ms": max(late.values()) * 1000,
    }


def observe(folder: Path, seconds: int) -> dict[str, dict[str, float]]:
    """Run both for so many slots."""
    servers, processes, observers = [], [], []
    try:
        for name in (OURS, STOCK):
            place = folder / name[:2]
            (place / "run").mkdir(parents=True, mode=0o700)
            servers.append(machine.Redis(place, "everysec"))
            for file, text in FILES.items():
                (place / file).write_text(text.format(socket=servers[-1].socket))
            argv = [sys.executable, "-m", "hpcpools", "--config", str(place / "hpcpools.toml"), "scheduler"]
            if name == STOCK:
                argv = [sys.executable, str(place / "stock.py"), str(servers[-1].socket)]
            observers.append(Observer(servers[-1].socket))
            observers[-1].start()
            processes.append(machine.start(argv, machine.environment(), place / "log"))
        for watcher, process in zip(observers, processes, strict=True):
            machine.until(lambda w=watcher: w.seen, f"the first firing: {_said(folder, process)}")  # type: ignore[misc]
        before = [machine.cpu([process.pid]) for process in processes]
        time.sleep(seconds + 2 * POLL)
        after = [machine.cpu([process.pid]) for process in processes]
        found = {}
        for name, watcher, slot_of in zip(
            (OURS, STOCK), observers, (slot_of_ours, slot_of_stock), strict=True
        ):
            found[name] = measured(list(watcher.seen), seconds, slot_of)
        for name, begin, end in zip((OURS, STOCK), before, after, strict=True):
            found[name]["cpu ms/s"] = (end - begin) / (seconds + 2 * POLL) * 1000
        return found
    finally:
        for process in processes:
            machine.end(process)
        for server in servers:
            server.stop()


def _said(folder: Path, process: subprocess.Popen[bytes]) -> str:
    logs = " ".join(file.read_text()[-200:] for file in folder.glob("*/log"))
    return f"exit {process.poll()}, {logs}"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="benchmarks schedule", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    options, _ = parser.parse_known_args(argv)
    with machine.folder() as folder:
        os.umask(0o077)
        found = observe(folder, options.seconds)
    print(figures.table([found], STOCK, list(found[OURS])))
    ours, stock = found[OURS], found[STOCK]
    targets = {
        "lost 0, none twice": ours["lost"] == ours["twice"] == 0,
        f"drift 0 (+-{DRIFT} ms a firing)": abs(ours["drift ms"]) <= DRIFT,
        f"late at most the poll interval ({POLL:g} s)": ours["late max ms"] <= POLL * 1000,
        "late p50 at most stock's": ours["late p50 ms"] <= stock["late p50 ms"],
    }
    for name, met in targets.items():
        print(f"target: {name}: {'met' if met else 'MISSED'}")
    figures.save(
        "schedule",
        {"systems": figures.summary([found], STOCK), "targets": targets},
        seconds=options.seconds,
        smoke=options.seconds < 60,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
