"""One finding of the doctor: what was looked at, how it is, and the one thing to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]
ORDER: tuple[Level, ...] = ("ok", "warn", "fail")


@dataclass(frozen=True)
class Finding:
    """``fix`` is one sentence, empty where all is well."""

    check: str
    level: Level
    text: str
    fix: str = ""


def ok(check: str, text: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", text)


def warn(check: str, text: str, fix: str) -> Finding:
    """It works, but not as it should."""
    return Finding(check, "warn", text, fix)


def fail(check: str, text: str, fix: str) -> Finding:
    """It does not work, or something can be lost."""
    return Finding(check, "fail", text, fix)


def worst(findings: list[Finding]) -> Level:
    """The worst level among ``findings``."""
    return max((each.level for each in findings), key=ORDER.index, default="ok")
