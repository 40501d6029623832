"""The words of a command line, for the fake's commands. Refuses what is not in its table, as getopt does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hpcpools.errors import UsageError


def parse(
    words: Sequence[str], valued: Mapping[str, str], flags: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Options by long name ("" for a flag), and the other words.

    ``valued`` and ``flags``: long name → short letters. Raises UsageError with getopt's words.
    """
    letters = {letter: name for table in (valued, flags) for name, short in table.items() for letter in short}
    found: dict[str, str] = {}
    others: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
        elif word.startswith("-") and len(word) > 1:
            name, value = letters.get(word[1], word), word[2:]
            equals = value
            if name in flags and value:  # -hr
                rest.insert(0, "-" + value)
        else:
            others.append(word)
            continue
        if name in flags:
            found[name] = ""
        elif name in valued:
            if not equals and not rest:
                raise UsageError(f"option '{word}' requires an argument", hint="see its manual page")
            found[name] = value if equals else rest.pop(0)
        else:
            raise UsageError(f"unrecognized option '{word}'", hint=f"the fake Slurm does not know {word}")
    return found, others


def values(text: str) -> Iterator[str]:
    """The parts of a list with commas."""
    return (part for part in text.split(",") if part)
