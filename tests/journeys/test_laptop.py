"""Without Slurm: the same commands, one local slot, Redis started for the user."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

from hpcpools.schema import DEFAULT_SCHEDULE
from tests.project import Project


def test_first_training_on_a_laptop(laptop: Project) -> None:
    """`train` starts what it needs, runs the function in a fresh process, and keeps its facts."""
    token = laptop.train("usertasks:learn", "steps=4", "lr=1e-3")
    laptop.cli("wait", token)
    assert laptop.json("result", token) == {"first": 1, "steps": 4, "lr": 1e-3}
    shown = laptop.json("show", token)
    assert (shown["state"], shown["engine"], shown["exit_code"]) == ("COMPLETED", "local", 0)
    assert (shown["step"], shown["total"]) == (4, 4)
    assert [item["step"] for item in shown["checkpoints"]] == [1, 2, 3, 4]
    training = laptop.json("status")["training"]
    assert training["engine"] == "local"


def test_the_slot_runs_one_training_at_a_time(laptop: Project, tmp_path: Path) -> None:
    """Three at once: the second starts after the first has ended; the queue shows the waiting ones."""
    marks, go = tmp_path / "marks", tmp_path / "go"
    tokens = [laptop.train("usertasks:hold", f"until={go}", f"mark={marks}") for _ in range(3)]
    laptop.until(marks.exists, "the first starts")
    row = next(row for row in laptop.json("queues") if row["queue"] == "training")
    assert (row["running"], row["waiting"]) == (1, 2)
    assert [laptop.state(token) for token in tokens] == ["RUNNING", "PENDING", "PENDING"]
    go.write_text("")
    laptop.cli("wait", *tokens)
    words = [line.split() for line in marks.read_text().splitlines()]
    assert [word[1] for word in words] == ["start", "end"] * 3
    assert len({word[0] for word in words}) == 3


def test_a_killed_slot_neither_doubles_nor_loses(laptop: Project, tmp_path: Path) -> None:
    """kill -9 of the slot: the training goes on, the next one waits for it, both run once."""
    marks, go = tmp_path / "marks", tmp_path / "go"
    tokens = [laptop.train("usertasks:hold", f"until={go}", f"mark={marks}") for _ in range(2)]
    laptop.until(marks.exists, "the first starts")
    slot = next(row for row in laptop.json("ps") if row["name"] == "slot")
    os.kill(slot["pid"], signal.SIGKILL)
    laptop.until(
        lambda: any(row["restarts"] and row["state"] == "running" for row in laptop.json("ps")), "a new slot"
    )
    assert [laptop.state(token) for token in tokens] == ["RUNNING", "PENDING"]
    go.write_text("")
    laptop.cli("wait", *tokens)
    words = [line.split()[1] for line in marks.read_text().splitlines()]
    assert words == ["start", "end"] * 2


def test_a_killed_training_is_failed_with_its_cause(laptop: Project, tmp_path: Path) -> None:
    """kill -9 of the training process itself."""
    token = laptop.train("usertasks:hold", f"until={tmp_path / 'never'}")
    laptop.until_state(token, "RUNNING")
    start = (laptop.root / token / "attempts" / "0.0" / "start.json").read_text()
    pid = int(start.split('"pid":')[1].split(",")[0])
    os.kill(pid, signal.SIGKILL)
    laptop.until_state(token, "FAILED")
    assert laptop.json("show", token)["cause"] == "killed by a signal"


def test_cancel_ends_waiting_and_running(laptop: Project, tmp_path: Path) -> None:
    """The waiting one at once, the running one within the grace; `wait` exits 5."""
    tokens = [laptop.train("usertasks:hold", f"until={tmp_path / 'never'}") for _ in range(2)]
    laptop.until_state(tokens[0], "RUNNING")
    assert "would cancel" in laptop.cli("cancel", "--dry-run", *tokens).stdout
    laptop.cli("cancel", *tokens)
    assert laptop.state(tokens[1]) == "CANCELLED"
    laptop.until_state(tokens[0], "CANCELLED")
    assert laptop.cli("wait", *tokens, check=False).returncode == 5


def test_a_failing_training_says_why(laptop: Project) -> None:
    """State, cause, exit code, reason; the log holds the traceback and is its own per attempt."""
    token = laptop.train("usertasks:fail")
    assert laptop.cli("wait", token, check=False).returncode == 5
    shown = laptop.json("show", token)
    assert (shown["state"], shown["cause"], shown["exit_code"]) == ("FAILED", "user error", 1)
    assert "made of cheese" in shown["reason"]
    log = laptop.cli("logs", token).stdout
    assert "about to fail" in log
    assert "Traceback" in log
    done = laptop.cli("result", token, check=False)
    assert done.returncode == 5
    assert "Traceback" not in done.stderr


def test_a_script_runs_with_the_facts_in_its_environment(laptop: Project) -> None:
    """`train -- COMMAND`: run directory, metrics, checkpoints; its exit code is the run's."""
    (laptop.folder / "script.py").write_text(
        "import os, sys, hpcpools\n"
        "run = hpcpools.current_run()\n"
        "run.log(step=7, loss=0.25)\n"
        "print(os.environ['HPCPOOLS_RUN'], os.environ['MASTER_ADDR'], sys.argv[1:])\n"
        "sys.exit(int(sys.argv[2]))\n"
    )
    good = laptop.train("--time", "5m", "--", sys.executable, "script.py", "--code", "0")
    bad = laptop.train("--time", "5m", "--", sys.executable, "script.py", "--code", "3")
    laptop.cli("wait", good)
    assert f"{good} 127.0.0.1 ['--code', '0']" in laptop.cli("logs", good).stdout
    assert laptop.json("show", good)["step"] == 7
    assert laptop.cli("wait", bad, check=False).returncode == 5
    assert laptop.json("show", bad)["exit_code"] == 3


def test_the_time_limit_ends_a_local_training(laptop: Project, tmp_path: Path) -> None:
    """One minute, deaf to warnings: TIMEOUT."""
    token = laptop.train("usertasks:deaf", f"until={tmp_path / 'never'}", "--time", "1m")
    laptop.until_state(token, "TIMEOUT", timeout=100)
    assert laptop.json("show", token)["cause"] == "time limit"


def test_short_tasks_answer_while_training_holds_the_slot(laptop: Project, tmp_path: Path) -> None:
    """The point of two pools."""
    token = laptop.train("usertasks:hold", f"until={tmp_path / 'go'}")
    laptop.until_state(token, "RUNNING")
    done = laptop.cli("enqueue", "usertasks:evaluate", "ckpt=a.pt", "--wait")
    assert '"ckpt": "a.pt"' in done.stdout
    assert laptop.state(token) == "RUNNING"
    failed = laptop.cli("enqueue", "usertasks:broken", "--wait", check=False)
    assert failed.returncode == 5
    assert "a broken task" in failed.stderr
    (tmp_path / "go").write_text("")
    laptop.cli("wait", token)


def test_one_process_per_gpu(laptop: Project) -> None:
    """torch's elastic launcher, forced here where there is no GPU: one rank, its value is the result."""
    token = laptop.train("usertasks:ranks", "--launcher", "elastic")
    laptop.cli("wait", token)
    assert laptop.json("result", token) == [[0, 0, True]]


API = """
import hpcpools
from usertasks import evaluate, learn
run = hpcpools.train(learn, lr=0.5, steps=2)
print(run.result(timeout=60))
print(hpcpools.enqueue(evaluate, ckpt="b.pt").result(timeout=60))
print(hpcpools.train("usertasks:learn", {"steps": 1}).wait(timeout=60).state.value)
"""


def test_the_python_api(laptop: Project) -> None:
    """The same two verbs from Python, starting what they need."""
    laptop.env["PYTHONPATH"] = str(laptop.folder)
    done = subprocess.run(
        [sys.executable, "-c", API],
        cwd=laptop.folder,
        env=laptop.env,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "{'first': 1, 'steps': 2, 'lr': 0.5}",
        "{'ckpt': 'b.pt'}",
        "COMPLETED",
    ]


def test_init_makes_a_working_project(laptop: Project) -> None:
    """The written file is valid as it stands, names the modules, and its schedules are live."""
    (laptop.folder / "hpcpools.toml").unlink()
    laptop.cli("init", "--module", "usertasks")
    names = [row["task"] for row in laptop.json("tasks")]
    assert "usertasks:learn" in names
    laptop.cli("up")
    laptop.until(lambda: len(laptop.json("status")["schedule"]) == len(DEFAULT_SCHEDULE), "the schedules")
    laptop.until(
        lambda: any("update_job_metrics" in job["call"] for job in laptop.json("jobs")), "upkeep fires"
    )


def test_the_pool_runs_in_the_foreground(laptop: Project) -> None:
    """`hpcpools worker --burst` serves what waits and ends; Ctrl-C ends a serving one cleanly."""
    laptop.cli("up", "redis")
    job = laptop.cli("enqueue", "usertasks:evaluate").stdout.strip()
    laptop.cli("worker", "--burst", "--workers", "1")
    assert laptop.json("show", job)["job"]["state"] == "finished"
    worker = laptop.start("worker", "--workers", "2")
    laptop.until(lambda: len(laptop.json("status")["workers"]) == 2, "two workers")
    worker.send_signal(signal.SIGINT)
    out, _ = worker.communicate(timeout=30)
    assert worker.returncode == 0, out
    assert "Traceback" not in out


def test_progress_is_drawn_on_a_terminal_only(laptop: Project) -> None:
    """A bar from the logged steps on a terminal; not a byte of it in a pipe."""
    go = laptop.folder / "go"
    token = laptop.train("usertasks:hold", f"until={go}")
    laptop.until_state(token, "RUNNING")
    master, slave = pty.openpty()
    terminal = subprocess.Popen(
        [sys.executable, "-m", "hpcpools", "wait", token],
        cwd=laptop.folder,
        env={**laptop.env, "TERM": "xterm", "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=slave,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    os.close(slave)
    piped = laptop.start("wait", token)
    drawn = b""
    while b"RUNNING" not in drawn:
        drawn += os.read(master, 4096)
    go.write_text("")
    assert terminal.communicate(timeout=60)[0] == f"{token}  COMPLETED\n"
    os.close(master)
    assert b"\x1b[" in drawn
    assert piped.communicate(timeout=60)[0] == f"{token}  COMPLETED\n"


def test_the_shell_completes(laptop: Project) -> None:
    """The script of each shell, and the names of the commands."""
    for shell in ("bash", "zsh", "fish"):
        assert "_HPCPOOLS_COMPLETE" in laptop.cli("completion", shell).stdout
    laptop.env.update(_HPCPOOLS_COMPLETE="bash_complete", COMP_WORDS="hpcpools st", COMP_CWORD="1")
    assert "status" in laptop.cli(check=False).stdout
