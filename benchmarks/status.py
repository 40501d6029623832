"""`hpcpools status` for 1000 runs: all of them waiting, then nearly all of them ended.

Beside `python -c pass`, and bare `squeue` has no part in it: without Slurm, so that only our own work counts.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import hpcpools
from benchmarks import figures, machine
from benchmarks.cli_start import BASE, BIN, take_turns
from hpcpools import config
from hpcpools.training.handle import RunHandle

RUNS = 1000
LIVE = 10  # that stay in the second part
FILES = {
    "hpcpools.toml": '[project]\nmodules = ["waiting"]\n[training]\nengine = "local"\n'
    '[services]\nruntime_dir = "run"\nautostart = false\n[redis]\nurl = "unix://{socket}"\n',
    "waiting.py": "from hpcpools import training\n\n\n@training(gpus=0)\ndef wait(run, number):\n"
    '    """Never started."""\n',
}


def submit(folder: Path, number: int) -> list[RunHandle]:
    """So many runs, which wait for a slot that nobody serves."""
    settings = config.load(folder / "hpcpools.toml")
    begin = time.perf_counter()
    runs = [
        hpcpools.train("waiting:wait", number=each, snapshot=False, config=settings) for each in range(number)
    ]
    print(f"{number} runs made, {(time.perf_counter() - begin) / number * 1000:.1f} ms each", flush=True)
    return runs


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="benchmarks status", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--runs", type=int, default=RUNS)
    options, _ = parser.parse_known_args(argv)
    result = {}
    with machine.folder() as folder:
        os.umask(0o077)
        server = machine.Redis(folder, "none")
        try:
            for name, text in FILES.items():
                (folder / name).write_text(text.format(socket=server.socket))
            named = {
                BASE: [str(BIN / "python"), "-c", "pass"],
                "hpcpools status": [str(BIN / "hpcpools"), "status"],
                "hpcpools status --json": [str(BIN / "hpcpools"), "status", "--json"],
                "hpcpools runs": [str(BIN / "hpcpools"), "runs"],
            }
            runs = submit(folder, options.runs)
            for part in ("all waiting", "nearly all ended"):
                rounds = take_turns(named, options.rounds, folder, {})
                print(f"{options.runs} runs, {part}")
                print(figures.table(rounds, BASE, ["ms"]))
                result[part] = figures.summary(rounds, BASE)
                for run in runs[LIVE:]:
                    run.cancel()
        finally:
            server.stop()
    figures.save("status", result, runs=options.runs, rounds=options.rounds, smoke=options.runs < RUNS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
