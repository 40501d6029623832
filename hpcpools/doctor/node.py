"""The doctor's question to a compute node: what it sees of the shared folder, as whom, at what time."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from hpcpools import atomic
from hpcpools.training import nodeenv


def main(argv: list[str] | None = None) -> int:
    """``python -m hpcpools.doctor.node ANSWER_FILE``."""
    (path,) = argv or sys.argv[1:]
    facts = {
        "node": nodeenv.variable("SLURMD_NODENAME") or "",
        "at": time.time(),
        "uid": os.geteuid(),
        "python": sys.version.split()[0],
    }
    atomic.write_json(Path(path), facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
