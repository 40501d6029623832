"""The same failure has one group, whatever differs each time; different failures never share one."""

from __future__ import annotations

import random

import pytest

from hpcpools.errors import NotFoundError
from hpcpools.failures import fingerprint
from hpcpools.failures.groups import Failure, find, grouped

TRACE = """Traceback (most recent call last):
  File "/home/{user}/v{n}/train.py", line {n}, in train_model
    step(batch)
  File "/home/{user}/v{n}/model.py", line {n}, in {function}
    raise {kind}(...)
{kind}: {message}
"""


def trace(n: int, kind: str = "RuntimeError", function: str = "step", message: str = "loss is {n}") -> str:
    """A traceback in which everything that may differ does."""
    words = {"user": f"u{n}", "n": n, "kind": kind, "function": function}
    return TRACE.format(**words, message=message.format(n=n))


def test_five_hundred_failures_of_three_kinds_are_three_groups() -> None:
    """In any order, from both pools."""
    kinds = [
        ("RuntimeError", "step", "expected 0x{n:x} at index {n}, file /scratch/job{n}/data.bin"),
        ("ValueError", "step", "expected 0x{n:x} at index {n}, file /scratch/job{n}/data.bin"),
        ("RuntimeError", "load", "expected 0x{n:x} at index {n}, file /scratch/job{n}/data.bin"),
    ]
    failures = [
        Failure(
            "short" if n % 2 else "training", f"f-{n}", "m:f", "user error", trace(n, *kinds[n % 3]), (), n
        )
        for n in range(500)
    ]
    random.Random(3).shuffle(failures)
    rows = grouped(failures)
    assert [len(row.failures) for row in rows] == [167, 167, 166]
    assert all([each.at for each in row.failures] == sorted(each.at for each in row.failures) for row in rows)
    assert find(rows, rows[1].group[:6]) is rows[1]
    for name in ("", "zz"):
        with pytest.raises(NotFoundError):
            find(rows, name)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("CUDA error: device 3", "CUDA error: device 7"),
        ("no file /a/b/x.pt", "no file /c/x.pt"),
        ("run hp-01m8a19xpjr9x1254bn4f0gvdg lost", "run hp-01m8a19xpjr9x1254bn4f0gvdh lost"),
        ("loss 1.5e-3 after 20", "loss -7 after 3"),
        ("job 0a1b2c3d-0000-4000-8000-0123456789ab", "job 1a1b2c3d-0000-4000-8000-0123456789ab"),
    ],
)
def test_what_differs_each_time_does_not_count(one: str, other: str) -> None:
    """Numbers, ids, addresses, where a file lies."""
    assert fingerprint.of("user error", one) == fingerprint.of("user error", other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("user error", "KeyError: 'a'"), ("user error", "KeyError: 'b'")),
        (("user error", "no file x.pt"), ("user error", "no file y.pt")),
        (("out of memory", ""), ("time limit", "")),
        (("bad node", "ECC", "n1"), ("bad node", "ECC", "n2")),
    ],
)
def test_what_matters_does_count(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    """Names, causes, and nodes where the node is to blame."""
    assert fingerprint.of(*one).group != fingerprint.of(*other).group


def test_chained_and_broken_tracebacks() -> None:
    """The last exception counts; a text that is no traceback is its last line; nothing is nothing."""
    chained = trace(1, "KeyError") + "\nDuring handling of the above exception, another one:\n\n" + trace(2)
    assert fingerprint.of("user error", chained) == fingerprint.of("user error", trace(3))
    assert fingerprint.of("user error", "a\nb 12\n").what == "b N"
    assert fingerprint.of("lost", "").what == "lost"
