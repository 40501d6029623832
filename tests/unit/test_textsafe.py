"""Hostile text: names for Slurm are refused, text for terminals is escaped."""

from __future__ import annotations

import random
import re

import pytest

from hpcpools import textsafe
from hpcpools.errors import UsageError


@pytest.mark.parametrize(
    "name",
    [
        "a\n#SBATCH --time=60",
        "a\\'\"\n",
        "x y",
        "",
        "-p",
        "#",
        "a'b",
        'a"b',
        "a\x00",
        "a\x9b",
        "é",
        "a" * 129,
        "$(id)",
    ],
)
def test_no_name_can_end_an_sbatch_line(name: str) -> None:
    """SEC-8: quotes, spaces, newlines, control characters and non-ASCII are refused."""
    with pytest.raises(UsageError):
        textsafe.slurm_field("partition", name)


def test_ten_thousand_random_names_are_refused_or_harmless() -> None:
    """SEC-8: whatever passes needs no quoting in a shell or an sbatch header."""
    source = random.Random(8)
    alphabet = "ab1_-.:/=@ \t\n\r\\'\"`$#;&|<>(){}\x1b\x00\u202e"
    for _ in range(10_000):
        name = "".join(source.choice(alphabet) for _ in range(source.randint(0, 12)))
        try:
            textsafe.slurm_field("name", name)
        except UsageError:
            continue
        assert not re.search(r"[\s\\'\"`$#;<>{}\x00-\x1f]", name)


def test_terminal_escapes_become_visible() -> None:
    """SEC-11: OSC, CSI, carriage return, bidi and zero-width leave no control byte behind."""
    hostile = "\x1b]0;title\x07 \x1b[2J \r \x9b31m \u202e \u200b ok\n\tend"
    shown = textsafe.printable(hostile)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202e]", shown)
    assert shown.endswith("ok\n\tend")
    assert "\n" not in textsafe.one_line(hostile)


def test_arguments_are_json_or_text() -> None:
    """``lr=1e-3`` is a number, ``name=x`` a text, ``n=null`` None."""
    assert textsafe.key_values(["lr=1e-3", "name=x", "n=null", "t=[1,2]", "e="]) == {
        "lr": 1e-3,
        "name": "x",
        "n": None,
        "t": [1, 2],
        "e": "",
    }


@pytest.mark.parametrize("item", ["lr", "=1", "1x=2", "a b=1"])
def test_a_wrong_argument_is_named(item: str) -> None:
    """The message holds the argument."""
    with pytest.raises(UsageError, match=re.escape(item)):
        textsafe.key_values([item])


@pytest.mark.parametrize("value", [object(), {1: 2}, (1, 2), float("nan"), b"x", {"a": {1}}])
def test_only_plain_json_passes(value: object) -> None:
    """What JSON would change or refuse is refused, by name."""
    with pytest.raises(UsageError, match="argument x="):
        textsafe.json_arguments({"x": value})
