"""`hpcpools top` in a real terminal, on a real cluster: what a user sees and types."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.project import Project


class Terminal:
    """A tmux server of its own with one window; keys go in, what is drawn comes out."""

    def __init__(self, socket: Path, project: Project, command: str, width: int, height: int) -> None:
        self._tmux = [shutil.which("tmux") or "tmux", "-S", str(socket), "-f", "/dev/null"]
        # Some shells export the size they had once.
        stale = {"COLUMNS": "80", "LINES": "24"}
        self._env = {**project.env, **stale, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        # The shell behind it tells the exit status, and keeps the window open.
        self.do(
            "new-session", "-d", "-x", str(width), "-y", str(height), "-c", str(project.folder),
            f"{command}; echo left with $?; read -r line",
        )  # fmt: skip

    def do(self, *words: str) -> str:
        """One tmux command."""
        done = subprocess.run(
            [*self._tmux, *words], env=self._env, capture_output=True, text=True, timeout=30, check=True
        )
        return done.stdout

    def screen(self, *, escapes: bool = False) -> str:
        """The window's text now; ``escapes``: with its colours."""
        return self.do("capture-pane", "-p", *(["-e"] if escapes else []))

    def keys(self, *keys: str) -> None:
        """Type."""
        self.do("send-keys", *keys)

    def close(self) -> None:
        """End the server and what runs in it."""
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, timeout=30, check=False)


@pytest.fixture
def terminal(site: Project, tmp_path: Path) -> Iterator[Terminal]:
    """80x24 with `hpcpools top`; NO_COLOR is set, as in every test project."""
    if shutil.which("tmux") is None:
        reason = "tmux is not installed"
        if os.environ.get("HPCPOOLS_REQUIRE_LAB") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    command = shlex.join([sys.executable, "-m", "hpcpools", "top"])
    window = Terminal(Path(site.env["XDG_STATE_HOME"]) / "tmux", site, command, 80, 24)
    try:
        yield window
    finally:
        window.close()


@pytest.mark.slurm
def test_a_training_is_seen_filtered_read_and_cancelled(site: Project, terminal: Terminal) -> None:
    """No Redis runs here, which is a line; the window is resized twice on the way."""
    token = site.train("usertasks:hold", f"until={site.folder / 'never'}", "--label", "long[/]run")
    other = site.train("usertasks:learn", "--label", "short-one")

    def seen(pattern: str) -> re.Match[str] | None:
        return re.search(pattern, terminal.screen())

    def until(found: Callable[[], object], what: str) -> None:
        try:
            site.until(found, what, timeout=30)
        except AssertionError:
            raise AssertionError(f"never: {what}\n{terminal.screen()}") from None

    until(lambda: seen(r"RUNNING +\S+ +long\[/\]run"), "it runs")
    until(lambda: seen(r"Slurm as of \d+s ago"), "the age of Slurm's answer")
    until(lambda: seen(r"COMPLETED +\S+ +short-one"), "the other one ended")
    assert seen("Redis") and not seen("Traceback")
    assert re.search(r"\x1b\[[0-9;]*[34][0-8]", terminal.screen(escapes=True)) is None  # NO_COLOR
    terminal.keys("/", "long[/]")
    until(lambda: seen(r"runs 1, filter long\[/\]") and not seen("short-one"), "the filter")
    terminal.keys("Enter")
    until(lambda: seen(f"log {token}") and seen("holding"), "its log")
    terminal.do("resize-window", "-x", "150", "-y", "45")
    until(lambda: seen("SERVICE ") and seen("workers") and seen("holding"), "more panes")
    terminal.keys("l")
    until(lambda: not seen("SERVICE ") and seen("holding"), "the log alone")
    terminal.do("resize-window", "-x", "80", "-y", "24")
    terminal.keys("l")
    until(lambda: seen(r"RUNNING +\S+ +long") and seen("queues"), "everything again")
    terminal.keys("c")
    until(lambda: seen(r"Cancel it\?") and seen(token), "a question")
    terminal.keys("n")
    until(lambda: not seen(r"Cancel it\?"), "no question")
    assert site.state(token) == "RUNNING"
    terminal.keys("c", "y")
    until(lambda: seen(r"CANCELLED +\S+ +long"), "it is cancelled")
    assert site.state(token) == "CANCELLED" and site.state(other) == "COMPLETED"
    terminal.keys("q")
    until(lambda: seen("left with 0"), "the end")
    assert not seen("TRAINING")
