"""A fork's own random numbers, without importing for them what nobody has asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

FORKS = """
import os, random, sys
{first}
from hpcpools.short import process
random.seed(1)
for _ in range(2):
    if not os.fork():
        process.reseed()
        print("numpy.random" in sys.modules, random.random(), {second}, flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.parametrize(
    ("first", "second", "imported"),
    [("import numpy", "0", "False"), ("import numpy.random", "numpy.random.random()", "True")],
)
def test_each_fork_has_numbers_of_its_own(first: str, second: str, imported: str) -> None:
    """numpy's generators take 4 MiB of each process that imports them: only where the parent did, too."""
    pytest.importorskip("numpy", minversion="2.0")  # which imports them when they are first asked for
    code = FORKS.format(first=first, second=second)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    one, two = (line.split() for line in done.stdout.splitlines())
    assert one[0] == two[0] == imported
    assert one[1] != two[1]
    assert one[2] != two[2] or second == "0"
