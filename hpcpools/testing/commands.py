"""The commands that the fake puts on PATH: ``python -m hpcpools.testing.commands FOLDER NAME WORDS…``.

One process per call, as with Slurm; all it knows is in FOLDER. The faults that a test has set come first.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from hpcpools.errors import HpcpoolsError, UsageError
from hpcpools.testing.world import Store

NAMES = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo", "srun")
VERSION = "slurm-wlm 22.05.8"
_NO_CONTACT = "Unable to contact slurm controller (connect failure)"
_SAID = {
    "sbatch": f"sbatch: error: Batch job submission failed: {_NO_CONTACT}",
    "squeue": f"slurm_load_jobs error: {_NO_CONTACT}",
    "scancel": f"scancel: error: slurm_load_jobs: {_NO_CONTACT}",
    "scontrol": f"slurm_load_ctl_conf error: {_NO_CONTACT}",
    "sinfo": f"slurm_load_partitions: {_NO_CONTACT}",
    "sacct": "sacct: error: Problem talking to the database: Connection refused",
}


def main(words: list[str]) -> int:
    """One call; its exit code."""
    folder, name, *rest = words
    store = Store(Path(folder))
    if rest[:1] in (["--version"], ["-V"]):
        print(VERSION)
        return 0
    if name == "srun":
        from hpcpools.testing import srun

        return srun.main(store, rest)
    if broken := _broken(store, name):
        print(broken, file=sys.stderr)
        return 1
    try:
        return _call(store, name, rest)
    except HpcpoolsError as error:
        print(f"{name}: error: {error.message}", file=sys.stderr)
        if isinstance(error, UsageError):
            print(f"{name}: {error.hint}", file=sys.stderr)
        return 1


def _broken(store: Store, name: str) -> str:
    """What the command says if whom it asks is down; does not return while they hang."""
    while True:
        faults = store.read().faults
        said = faults.accounting if name == "sacct" else faults.controller
        if said != "hangs":
            return _SAID[name] if said else ""
        time.sleep(0.05)


def _call(store: Store, name: str, words: list[str]) -> int:
    """Each command imports what it needs: programs poll squeue, and a process is started for each call."""
    env = dict(os.environ)
    if name == "sbatch":
        from hpcpools.testing import sbatch

        return sbatch.main(store, words, env, str(Path.cwd()))
    if name in ("squeue", "sacct"):
        from hpcpools.testing import queries

        answer = queries.squeue if name == "squeue" else queries.sacct
        return answer(store.read(), words, env)
    if name == "sinfo":
        from hpcpools.testing import nodes

        return nodes.sinfo(store.read(), words)
    return _change(store, name, words, env)


def _change(store: Store, name: str, words: list[str], env: Mapping[str, str]) -> int:
    from hpcpools.testing import control, scheduling

    with store.change() as world:
        if name == "scancel":
            code = control.scancel(world, words)
        else:
            code = control.scontrol(world, words, env)
        if world.auto:
            scheduling.schedule(world, store.folder)
    return code


def _told_as_bytes() -> None:
    """Slurm prints what it was given, also half a character."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")


if __name__ == "__main__":
    _told_as_bytes()
    sys.exit(main(sys.argv[1:]))
