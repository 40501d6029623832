"""Commands of a project run in this process: many of them, cheaply."""

from __future__ import annotations

import contextlib
import io
import time
from dataclasses import dataclass

import pytest

import hpcpools.cli
from tests.project import Project


@dataclass(frozen=True)
class Told:
    """Exit code, everything printed, and how long it took in seconds."""

    code: object
    text: str
    seconds: float


class Inside:
    """``told(…)`` runs a command as `hpcpools` would."""

    def __init__(self, project: Project, patch: pytest.MonkeyPatch) -> None:
        self._file = project.folder / "hpcpools.toml"
        for name in ("XDG_STATE_HOME", "PATH"):
            patch.setenv(name, project.env[name])

    def told(self, *words: str) -> Told:
        """Its answer; never raises but for a bug in the command line itself."""
        return told("--config", str(self._file), *words)


def told(*words: str) -> Told:
    """What `hpcpools` says to ``words`` in this process as it is."""
    began = time.monotonic()
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            hpcpools.cli.main(list(words))
            code: object = 0
        except SystemExit as leave:
            code = leave.code
    return Told(code, out.getvalue(), time.monotonic() - began)


@pytest.fixture
def inside(laptop: Project, monkeypatch: pytest.MonkeyPatch) -> Inside:
    """The laptop's command line in this process."""
    return Inside(laptop, monkeypatch)
