"""Start of the command line against `python -c pass`, interleaved in one run; target: --help at most 5×.

Prints medians in ms and ratios. Run alone on the machine: `make bench`.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 21
TARGET = 5.0
HPCPOOLS = str(Path(sys.executable).with_name("hpcpools"))
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "hpcpools --help": [HPCPOOLS, "--help"],
    "hpcpools --version": [HPCPOOLS, "--version"],
    "hpcpools train --help": [HPCPOOLS, "train", "--help"],
}


def measure() -> dict[str, float]:
    """Median seconds of each command, all taken in turn so that drift hits them alike."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for round_ in range(ROUNDS + 2):
        for name, argv in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
            if round_ >= 2:  # the first two warm the caches
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> int:
    """Exit 1 if the target is missed."""
    medians = measure()
    base = medians["python -c pass"]
    for name, value in medians.items():
        print(f"{name:24} {value * 1000:7.1f} ms  {value / base:5.2f}x")
    ratio = medians["hpcpools --help"] / base
    print(f"target: --help <= {TARGET}x: {'met' if ratio <= TARGET else 'MISSED'} ({ratio:.2f}x)")
    return 0 if ratio <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
