"""`python -m benchmarks [NAME...] [options]`: run the named benchmarks, or all; then write the document.

Options are handed to each of them; `--rounds 1 --tasks 200 --runs 100` is a smoke test of a few minutes.
`--results DIR` keeps results and document there, and the published ones as they are.
"""

from __future__ import annotations

import os
import subprocess
import sys

NAMES = ("short_tasks", "cli_start", "status", "submit", "headline", "schedule", "load")


def main() -> int:
    """0 if every one of them could measure; each runs in a process of its own."""
    words = sys.argv[1:]
    if "--results" in words:
        place = words.index("--results")
        os.environ["BENCH_RESULTS"] = os.path.abspath(words[place + 1])  # noqa: PTH100
        del words[place : place + 2]
    names = [word for word in words if word in (*NAMES, "report")] or list(NAMES)
    options = [word for word in words if word not in names]
    for name in dict.fromkeys((*names, "report")):  # the document always shows the last results
        print(f"== {name}", flush=True)
        if code := subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}", *options], check=False
        ).returncode:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
