"""`hpcpools reconcile` of 100 000 runs after a wiped Redis, beside the same with an index that is there.

The runs have ended: their files are written as they would be, without fsync. Pages of those files are warm.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import figures, machine
from benchmarks.cli_start import BIN
from hpcpools.runs.request import Request, Resources, encode
from hpcpools.runs.token import new_token

RUNS = 100_000
WIPED, AGAIN = "hpcpools reconcile, Redis wiped", "hpcpools reconcile, again"
CONFIG = '[training]\nengine = "local"\n[services]\nruntime_dir = "run"\n[redis]\nurl = "unix://{socket}"\n'
FOLDERS = ("submissions", "attempts", "attempts/0.0", "checkpoints", "submitit")


def plant(root: Path, number: int) -> None:
    """So many ended runs of one attempt each."""
    for folder in (root, root / ".live", root / ".ended"):
        folder.mkdir(mode=0o700)
    now = time.time()
    for each in range(number):
        at = now - 1000 - number + each
        token = new_token(at)
        request = Request(token, at, "slurm", Resources(), target="tasks:train", arguments={"seed": each})
        job = {"job_id": str(each), "cluster": "", "at": at}
        events = ((0, "SUBMITTING"), (1, "PENDING"), (5, "RUNNING"), (50, "COMPLETED"))
        metrics = [
            {"at": at + 5 + step, "step": step, "total": 10, "loss": 1 / step} for step in range(1, 11)
        ]
        files = {
            "run.json": encode(request).decode(),
            "submissions/0.json": json.dumps({"at": at}),
            "submissions/0.job.json": json.dumps(job),
            "attempts/0.0/start.json": json.dumps({**job, "at": at + 5, "node": "n1", "pid": 1}),
            "attempts/0.0/end.json": json.dumps({"at": at + 50, "outcome": "completed"}),
            "events.jsonl": "".join(json.dumps({"at": at + t, "state": s}) + "\n" for t, s in events),
            "metrics.jsonl": "".join(json.dumps(line) + "\n" for line in metrics),
        }
        (root / token).mkdir()
        for name in FOLDERS:
            (root / token / name).mkdir()
        for name, text in files.items():
            (root / token / name).write_text(text)


def reconcile(folder: Path, number: int) -> float:
    """Seconds of the command, once all runs are in the index."""
    argv = [str(BIN / "hpcpools"), "--config", str(folder / "hpcpools.toml"), "reconcile", "--json"]
    begin = time.perf_counter()
    done = subprocess.run(argv, capture_output=True, check=True, env=machine.environment())
    took = time.perf_counter() - begin
    found = json.loads(done.stdout)
    if (found["runs"], found["problems"]) != (number, []):
        raise machine.PatienceError(f"not all of it: {found}")
    return took


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="benchmarks reconcile", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=RUNS)
    options, _ = parser.parse_known_args(argv)
    rounds = []
    with machine.folder() as folder:
        os.umask(0o077)
        server = machine.Redis(folder, "always")
        try:
            (folder / "hpcpools.toml").write_text(CONFIG.format(socket=server.socket))
            plant(folder / "runs", options.runs)
            for _ in range(options.rounds):
                server.client.flushall()
                wiped = reconcile(folder, options.runs)
                if server.client.hlen("hp:index") != options.runs:
                    raise machine.PatienceError("the index is not whole")
                rounds.append({WIPED: {"s": wiped}, AGAIN: {"s": reconcile(folder, options.runs)}})
        finally:
            server.stop()
    print(f"{options.runs} runs")
    print(figures.table(rounds, WIPED, ["s"]))
    result = {"commands": figures.summary(rounds, WIPED)}
    figures.save("reconcile", result, runs=options.runs, rounds=options.rounds, smoke=options.runs < RUNS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
