"""Changes that need the project's own modules: the command line makes them, in a process of its own.

Owns how it is run and how its refusal is told. The dashboard itself imports no task: it lives for weeks, and
what a module does on import, and which version of it counts, is not its matter.
"""

from __future__ import annotations

import subprocess

from hpcpools import interpreter
from hpcpools.config import Config, environment
from hpcpools.errors import HpcpoolsError, NotFoundError, RefusedError, UnavailableError, UsageError

LIMIT = 60.0  # seconds; importing the modules is most of it


def run(config: Config, *words: str) -> None:
    """``hpcpools WORDS --json``, to its end. Raises what it raised."""
    argv = interpreter.argv("hpcpools", "--config", config.file, *words, "--json")
    try:
        done = subprocess.run(
            argv,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(
            f"this took longer than {LIMIT:.0f} s", hint=f"`hpcpools {' '.join(words)}` in a terminal"
        ) from None
    if done.returncode:
        message, _, hint = done.stderr.rpartition("hpcpools: ")[2].partition("\n")
        kinds = (NotFoundError, RefusedError, UnavailableError, UsageError)
        kind = next((kind for kind in kinds if kind.exit_code == done.returncode), HpcpoolsError)
        raise kind(message.strip(), hint=hint.strip().removeprefix("hint: "))
