"""REL-21: a pool whose workers are killed for an hour leaves nothing behind and does not grow.

Some seconds of it in `make test`; HPCPOOLS_CHAOS_WEAR_SECONDS=3600 makes it the hour of `make chaos`.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

from tests.chaos.conftest import WORKERS
from tests.short.lab import Lab, children, wait_for

SECONDS = float(os.environ.get("HPCPOOLS_CHAOS_WEAR_SECONDS", "10"))
WARM = max(4.0, SECONDS / 20)  # seconds until the supervisor counts as grown up
KILL_EVERY = 2.0 if SECONDS > 60 else 0.5  # seconds
BACKLOG = 80  # jobs that wait at any time
# One job in three is none that ends well and leaves nothing.
KINDS: list[tuple[str, dict[str, Any]]] = [("work", {})] * 10
KINDS += [("die", {"how": "raise"}), ("die", {"how": "exit3"}), ("die", {"how": "kill"})]
KINDS += [("litter", {"how": "process"}), ("litter", {"how": "daemon"})]


def resident(pid: int) -> int:
    """Bytes of RSS that are no file's."""
    words = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(words[1]) - int(words[2])) * os.sysconf("SC_PAGE_SIZE")


def files(pid: int) -> int:
    """Open file descriptors."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def defunct(pid: int) -> int:
    """Zombies among the children."""
    found = 0
    for child in children(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return found


def test_rel_21_nothing_is_left_and_nothing_grows(pool: Lab) -> None:
    """Workers killed without end under load: 0 in rq:wip, 0 defunct, RSS drift ≤5 %, open files as many as
    before; jobs that fail, crash or leave a process are among them."""
    chance = random.Random(21)
    supervisor = pool.start_pool()
    began, kills, jobs, before = time.monotonic(), 0, 0, (0, 0)
    while (ran := time.monotonic() - began) < SECONDS:
        while pool.redis.llen("rq:queue:default") < BACKLOG:
            jobs += 1
            what, arguments = chance.choice(KINDS)
            pool.enqueue(what, **(arguments or {"number": jobs % 1000, "seconds": 0.1}))
        until = time.monotonic() + KILL_EVERY
        wait_for(lambda until=until: time.monotonic() > until, "the next blow")  # type: ignore[misc]
        if below := children(supervisor.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(below), signal.SIGKILL)
                kills += 1
        if ran > WARM and before == (0, 0):
            wait_for(lambda: len(children(supervisor.pid)) == WORKERS, "all workers are there")
            before = resident(supervisor.pid), files(supervisor.pid)
    wait_for(lambda: not pool.redis.exists("rq:queue:default"), "nothing waits", 120)
    wait_for(lambda: not pool.redis.exists("rq:wip:default"), "nothing is held", 120)
    wait_for(lambda: len(children(supervisor.pid)) == WORKERS, "all workers are there")
    wait_for(lambda: not defunct(supervisor.pid), "no zombie")
    after = resident(supervisor.pid), files(supervisor.pid)
    drift = after[0] / before[0] - 1
    sizes = f"RSS {before[0] >> 10} KiB {drift:+.1%}, files {before[1]} {after[1]}"
    print(f"figures: seconds {SECONDS:.0f}, jobs {jobs}, kills {kills}, {sizes}")
    assert kills > 5
    assert supervisor.poll() is None
    assert drift <= 0.05
    assert after[1] <= before[1]
    assert not pool.redis.exists("rq:queue:default:intermediate")
