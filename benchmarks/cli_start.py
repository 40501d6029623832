"""What one command costs, against `python -c pass`: all in turn, in one run, so that drift hits them alike.

`status` and `rq info` look at the same live Redis with an empty pool; `status` for many runs is a benchmark
of its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import figures, machine

BASE = "python -c pass"
BIN = machine.ROOT / ".venv" / "bin"  # hpcpools, rq and the Python they run on
CONFIG = """
[redis]
url = "unix://{socket}"
[services]
runtime_dir = "run"
autostart = false
[training]
engine = "local"
"""


def commands(socket: Path) -> dict[str, list[str]]:
    """Name → argv."""
    celery = [machine.program("celery"), "-b", f"redis+socket://{socket}", "inspect", "ping", "-t", "0.1"]
    return {
        BASE: [str(BIN / "python"), "-c", "pass"],
        "import click": [str(BIN / "python"), "-c", "import click"],
        "import click, hpcpools.config": [str(BIN / "python"), "-c", "import click, hpcpools.config"],
        "import redis": [str(BIN / "python"), "-c", "import redis"],
        "hpcpools --help": [str(BIN / "hpcpools"), "--help"],
        "hpcpools --version": [str(BIN / "hpcpools"), "--version"],
        "hpcpools train --help": [str(BIN / "hpcpools"), "train", "--help"],
        "hpcpools status": [str(BIN / "hpcpools"), "status"],
        "rq info": [str(BIN / "rq"), "info", "--url", f"unix://{socket}"],
        "celery inspect ping": celery,
    }


def take_turns(
    named: Mapping[str, list[str]], rounds: int, folder: Path, fine: Mapping[str, tuple[int, ...]]
) -> list[dict[str, dict[str, float]]]:
    """Milliseconds of every command in each round; the first two rounds only warm the caches.

    ``fine``: exit codes besides 0 that a command may end with.
    """
    taken: list[dict[str, dict[str, float]]] = []
    for _ in range(rounds + 2):
        this = {}
        for name, argv in named.items():
            begin = time.perf_counter()
            done = subprocess.run(
                argv, cwd=folder, env=machine.environment(), capture_output=True, text=True, check=False
            )
            this[name] = {"ms": (time.perf_counter() - begin) * 1000}
            if done.returncode not in (0, *fine.get(name, ())):
                raise machine.PatienceError(f"{name}: exit {done.returncode}: {done.stderr[-500:]}")
        taken.append(this)
    return taken[2:]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="benchmarks cli_start", description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    options, _ = parser.parse_known_args(argv)
    with machine.folder() as folder:
        server = machine.Redis(folder, "none")
        try:
            os.umask(0o077)
            (folder / "hpcpools.toml").write_text(CONFIG.format(socket=server.socket))
            no_worker = {"celery inspect ping": (69,)}  # nobody answers: that is its shortest way
            rounds = take_turns(commands(server.socket), options.rounds, folder, no_worker)
        finally:
            server.stop()
    print(figures.table(rounds, BASE, ["ms"]))
    figures.save(
        "cli_start",
        {"commands": figures.summary(rounds, BASE)},
        rounds=options.rounds,
        smoke=options.rounds < 9,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
