"""`hpcpools help` and the sections of `hpcpools --help`."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

from hpcpools.cli import COMMANDS, SECTIONS, group
from hpcpools.errors import NotFoundError

# What `--help` has no use for: modules that take a twentieth of its time or more.
HEAVY = {"dataclasses", "hashlib", "hpcpools", "json", "logging", "msgspec", "pathlib", "rich", "shutil"}
HEAVY |= {"importlib.metadata", "socket", "subprocess", "tempfile", "tomllib"}


def printed(*words: str) -> str:
    """What hpcpools prints, run in this process; its exit code is 0."""
    done = CliRunner().invoke(group, list(words), prog_name="hpcpools", catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_topics_are_the_pages() -> None:
    """Each has a title; a page is plain text when piped, its links name topics."""
    listed = printed("help")
    names = re.findall(r"^  ([\w.-]+)  +\S", listed, re.M)
    assert {"training", "tutorial-laptop", "troubleshooting"} <= set(names)
    page = printed("help", "training")
    assert "Training that survives" in page
    assert "\x1b" not in page and "](" not in page and "**" not in page
    assert max(map(len, page.splitlines())) <= 100
    assert "(hpcpools help explain)" in printed("help", "lane")


def test_other_words_are_commands() -> None:
    """Also those of a group; a slip of the finger gets a hint."""
    assert printed("help", "train") == printed("train", "--help")
    assert printed("help", "schedule", "add") == printed("schedule", "add", "--help")
    for words in (["trian"], ["train", "x"], ["schedule", "adx"], ["../README"]):
        with pytest.raises(NotFoundError, match="no topic or command") as raised:
            printed("help", *words)
        assert words != ["trian"] or raised.value.hint == "did you mean `hpcpools help train`?"


def test_a_terminal_has_the_pager() -> None:
    """Through $PAGER, as wide as the terminal, without wrapping words of more than it."""
    env = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "hpcpools", "help", "schedule"],
        env={**env, "PAGER": "cat -A", "TERM": "xterm"}, stdin=slave, stdout=slave, stderr=slave,
    ):  # fmt: skip
        os.close(slave)
        shown = b""
        while b"shared-redis" not in shown and b"$" in shown + b"$":
            try:
                shown += os.read(master, 65536)
            except OSError:  # the other side is closed: that was all
                break
    os.close(master)
    assert b"^[[1" in shown and b"Where a schedule is declared" in shown


def test_help_has_sections_and_every_command_once() -> None:
    """In the order of the table; nothing is imported but our group and what click itself needs."""
    shown = printed("--help")
    assert re.findall(r"^  ([a-z][a-z-]*)  +[A-Z]", shown, re.M) == list(COMMANDS)
    assert re.findall(r"^(\w[\w ]*):$", shown, re.M) == ["Options", *SECTIONS.values()]
    assert set(SECTIONS) <= set(COMMANDS) and next(iter(SECTIONS)) == next(iter(COMMANDS))
    code = (
        "import sys; sys.argv = ['hpcpools', '--help']; from hpcpools import cli\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        f"print(*sorted(n for n in sys.modules if {{n, n.split('.')[0]}} & {HEAVY!r}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.split() == ["hpcpools", "hpcpools.cli"]
