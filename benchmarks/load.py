"""A site of 100 000 runs and 100 000 short jobs on record: every page, and every command that reads them all.

Without Slurm on PATH, so that only our own work counts. The site lies in TMPDIR: 2.7 million files and
folders, half of them with a block of their own; the last thing that is measured is their removal.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import resource
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import browser, figures, machine, planting
from benchmarks.cli_start import BIN
from hpcpools import config
from hpcpools.redisdb import keys

RECORDS = 100_000
ROUNDS = 5
TOP = "hpcpools top, first screen"
WITH, WITHOUT = "with the index", "without the index"
SETTINGS = (
    '[project]\nmodules = ["loadtasks"]\n[training]\nengine = "local"\n[services]\nruntime_dir = "run"\n'
    'autostart = false\n[redis]\nurl = "unix://{socket}"\n'
)
QUICK = (
    *("status", "status --json", "runs", "jobs", "failures", "usage"),
    *("report --since 7d", "exporter --print metrics", "upkeep update_job_metrics"),
)
Measured = dict[str, float]


class Site:
    """The project in ``folder``, and how its commands are measured."""

    def __init__(self, folder: Path, socket: Path) -> None:
        self.folder = folder
        self.env = machine.environment(PATH=str(BIN), COLUMNS="140", LINES="40", TERM="xterm-256color")
        (folder / "hpcpools.toml").write_text(SETTINGS.format(socket=socket))
        (folder / "loadtasks.py").write_text(planting.TASKS)
        self.config = config.load(folder / "hpcpools.toml")

    def command(self, words: str) -> tuple[Measured, str]:
        """Seconds on the clock and of CPU, and what it printed."""
        before, begin = _cpu(), time.perf_counter()
        argv = [str(BIN / "hpcpools"), *words.split()]
        done = subprocess.run(
            argv, cwd=self.folder, env=self.env, capture_output=True, text=True, check=False
        )
        took = {"s": time.perf_counter() - begin, "cpu_s": _cpu() - before}
        if done.returncode:
            raise machine.PatienceError(f"{words}: exit {done.returncode}: {done.stderr[-500:]}")
        _tell(f"hpcpools {words}", took)
        return took, done.stdout

    def top(self, run: str) -> Measured:
        """Until ``run`` is on the screen."""
        before, begin = _cpu(), time.perf_counter()
        ours, theirs = pty.openpty()
        argv = [str(BIN / "hpcpools"), "top"]
        program = subprocess.Popen(
            argv, cwd=self.folder, env=self.env, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        seen = b""
        try:
            while run.encode() not in seen:
                if not select.select([ours], [], [], 60)[0]:
                    raise machine.PatienceError(f"top shows no {run}: {seen[-500:]!r}")
                seen += os.read(ours, 65536)
            took = time.perf_counter() - begin
        finally:
            machine.end(program)
            os.close(ours)
        found = {"s": took, "cpu_s": _cpu() - before}
        _tell(TOP, found)
        return found


def _tell(name: str, took: Measured) -> None:
    print(f"  {name:44}{took['s']:9.2f} s{took['cpu_s']:9.2f} s of CPU", flush=True)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _pages(site: Site, tokens: Sequence[str], job: str, rounds: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, took in browser.visit(site.folder, site.env, tokens, job, rounds):
        found[name] = figures.spread([1000 * each for each in took]).as_dict()
        print(f"  {name:34}{found[name]['median']:9.0f} ms{found[name]['high']:9.0f} ms", flush=True)
    return found


def measure(site: Site, client: Any, runs: int, rounds: int) -> dict[str, Any]:
    """Build the site, look at all of it, and remove its runs again."""
    commands: list[dict[str, Measured]] = []

    def command(words: str, name: str = "") -> str:
        taken, said = site.command(words)
        commands.append({name or f"hpcpools {words}": taken})
        return said

    begin = time.perf_counter()
    tokens = planting.runs(site.config, runs)
    print(f"{runs} runs planted in {time.perf_counter() - begin:.0f} s", flush=True)
    for name in ("hpcpools reconcile, Redis wiped", "hpcpools reconcile, again"):
        found = json.loads(command("reconcile --json", name))
        assert (found["runs"], found["problems"]) == (runs, []), found
    begin = time.perf_counter()
    planting.jobs(site.config, runs)
    print(f"{runs} short jobs planted in {time.perf_counter() - begin:.0f} s", flush=True)
    for words in (*QUICK * rounds, "runs --state LOST"):  # which none is: a look at all of them
        command(words)
    commands += [{TOP: site.top(tokens[-1])} for _ in range(rounds)]
    job = client.zrange("rq:finished:evaluation", 0, 0)[0].decode()
    pages = {WITH: _pages(site, tokens, job, rounds)}
    client.delete(keys.INDEX)
    pages[WITHOUT] = _pages(site, tokens, job, rounds)
    command("gc --older-than 1s --dry-run --json")
    removed = json.loads(command("gc --older-than 1s --json"))
    assert len(removed["runs"]) == runs - planting.LIVE, removed["problems"]
    slowest = {how: max(each["high"] for each in found.values()) for how, found in pages.items()}
    return {"commands": figures.summary(commands, ""), "pages": pages, "slowest page ms": slowest}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="benchmarks load", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--runs", type=int, default=RECORDS)
    options, _ = parser.parse_known_args(argv)
    os.umask(0o077)
    with machine.folder() as folder:
        server = machine.Redis(folder, "everysec")
        try:
            site = Site(folder, server.socket)
            result = measure(site, server.client, max(options.runs, 200), options.rounds)
        finally:
            server.stop()
    figures.save("load", result, runs=options.runs, rounds=options.rounds, smoke=options.runs < RECORDS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
