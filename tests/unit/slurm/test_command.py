"""Running commands: time limits, the end of the whole group, the environment, the count of the load."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from hpcpools.errors import SlurmRefusedError, SlurmUnavailableError
from hpcpools.slurm.command import Runner
from tests.unit.slurm.conftest import Fake


def test_answer(fake: Fake) -> None:
    """run() gives what the command printed, byte for byte, carriage returns too."""
    assert fake(squeue=r"printf 'a\rb\n'").run(["squeue"]) == "a\rb\n"


def test_stdin(fake: Fake) -> None:
    """Text for the command's standard input arrives; without any it reads nothing and does not wait."""
    runner = fake(sbatch="cat")
    assert runner.run(["sbatch"], stdin="script") == "script"
    assert runner.run(["sbatch"]) == ""


def test_missing_command(fake: Fake) -> None:
    """A command that is not on the given PATH is SlurmUnavailableError, and counted as failed."""
    runner = fake()
    with pytest.raises(SlurmUnavailableError, match="squeue cannot be run"):
        runner.run(["squeue"])
    assert runner.calls["squeue"].failed == 1


def test_timeout_ends_the_group(fake: Fake, tmp_path: Path) -> None:
    """A command that hangs is killed with all that it started, when its time is over."""
    runner = fake(squeue='sleep 600 & echo $! > "$WORK/child"; wait', timeout=0.5)
    started = time.monotonic()
    with pytest.raises(SlurmUnavailableError, match="did not answer in time"):
        runner.run(["squeue"])
    assert time.monotonic() - started < 10
    assert _ends(int((tmp_path / "child").read_text()))


def test_timeout_with_a_deaf_command(fake: Fake) -> None:
    """Ignoring SIGTERM, or being stopped, does not keep a command alive."""
    for lines in ("trap '' TERM; while :; do sleep 1; done", "kill -STOP $$"):
        done = fake(sacct=lines, timeout=0.3).finish(["sacct"])
        assert done.code is None


def test_timeout_with_an_escaped_child(fake: Fake, tmp_path: Path) -> None:
    """A grandchild that left the group and holds the pipe open does not make us wait."""
    runner = fake(squeue="echo some; setsid sh -c 'echo $$ > \"$WORK/pid\"; sleep 30' & wait", timeout=1.0)
    started = time.monotonic()
    assert runner.finish(["squeue"]).code is None
    assert time.monotonic() - started < 10
    pid = int((tmp_path / "pid").read_text())
    os.killpg(pid, signal.SIGKILL)


def test_words_decide_the_error(fake: Fake) -> None:
    """Slurm's refusals are SlurmRefusedError with its words; anything else is SlurmUnavailableError."""
    refused = fake(scontrol="echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    with pytest.raises(SlurmRefusedError, match="Invalid job id specified"):
        refused.run(["scontrol"])
    for text in ("Socket timed out on send/recv operation", "Zero Bytes were transmitted or received", ""):
        away = fake(squeue=f"echo 'slurm_load_jobs error: {text}' >&2; exit 1")
        with pytest.raises(SlurmUnavailableError):
            away.run(["squeue"])


def test_hostile_words_are_escaped(fake: Fake) -> None:
    """Terminal controls in a command's error text never reach the message."""
    runner = fake(squeue=r"printf 'squeue: error: \033]0;owned\007\n' >&2; exit 1")
    with pytest.raises(SlurmUnavailableError) as caught:
        runner.run(["squeue"])
    assert "\x1b" not in str(caught.value)
    assert r"\x1b]0;owned" in str(caught.value)


def test_environment_of_queries(fake: Fake) -> None:
    """Queries run in the C locale with epoch times; with env= the command gets exactly that."""
    runner = fake(squeue="env")
    said = dict(line.split("=", 1) for line in runner.run(["squeue"]).splitlines())
    assert (said["LC_ALL"], said["SLURM_TIME_FORMAT"], said["SLURM_BITSTR_LEN"]) == ("C", "%s", "0")
    exact = runner.run(["squeue"], env={"PATH": runner.environment["PATH"], "ONLY": "this"})
    assert "ONLY=this" in exact
    assert "LC_ALL" not in exact


def test_missing_configuration_is_not_waited_for(fake: Fake, tmp_path: Path) -> None:
    """Slurm retries an unreadable SLURM_CONF for a minute; we say so at once and start nothing."""
    runner = fake(sbatch="sleep 60", srun="", squeue="")
    lost = Runner({**runner.environment, "SLURM_CONF": str(tmp_path / "none.conf")})
    with pytest.raises(SlurmUnavailableError, match=r"none\.conf"):
        lost.run(["sbatch"])
    assert not lost.available()
    assert not lost.calls


def test_available(fake: Fake) -> None:
    """Slurm is here if its three commands are on PATH and one of them finds a configuration."""
    assert not fake(sbatch="exit 0", squeue="exit 0").available()
    assert fake(sbatch="exit 0", squeue="exit 0", srun="exit 0").available()
    assert not fake(sbatch="exit 1").available()


def test_load_is_counted(fake: Fake) -> None:
    """Calls are counted by command, with failures and seconds, also from many threads."""
    runner = fake(squeue="exit 0", sacct="exit 1")
    threads = [threading.Thread(target=runner.finish, args=(["squeue"],)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    runner.finish(["sacct"])
    assert (runner.calls["squeue"].count, runner.calls["squeue"].failed) == (8, 0)
    assert (runner.calls["sacct"].count, runner.calls["sacct"].failed) == (1, 1)
    assert 0 < runner.calls["squeue"].longest <= runner.calls["squeue"].seconds


def _ends(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":  # dead, and waiting for init to collect it
            return True
        time.sleep(0.02)
    return False
