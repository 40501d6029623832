"""How the process of a command ends: at once, but with everything said and done that Python owes."""

from __future__ import annotations

import subprocess
import sys

import pytest

# A module's end is not waited for; what is registered for the end is.
CODE = """
import atexit, sys, threading
class Watched:
    def __del__(self):
        print("torn down")
watched = Watched()
atexit.register(print, "at exit")
if {thread}:  # it ends after the command
    threading.Thread(target=lambda: (threading.main_thread().join(), print("thread"))).start()
sys.argv = ["hpcpools", *{words}]
from hpcpools.__main__ import run
run()
"""


def end(*words: str, thread: bool = False) -> tuple[int, list[str]]:
    """Exit code and the last lines of a command in a process of its own."""
    code = CODE.format(thread=thread, words=list(words))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize(("word", "code"), [("--version", 0), ("no-such-command", 2)])
def test_a_command_ends_at_once(word: str, code: int) -> None:
    """With its exit code, its output and the exit functions, and without taking modules apart."""
    ended, lines = end(word)
    assert (ended, lines[-1]) == (code, "at exit")


def test_another_thread_is_waited_for() -> None:
    """Then Python ends as ever."""
    assert end("--version", thread=True)[1][1:] == ["thread", "at exit", "torn down"]


def test_a_closed_stdout_is_no_trouble() -> None:
    """As `hpcpools --version >&-` in a shell."""
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -m hpcpools --version >&-', sys.executable],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
