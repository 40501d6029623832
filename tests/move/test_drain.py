"""`hpcpools down --drain`: running short jobs end, new ones wait; Ctrl-C and the timeout."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.move.lab import prepared, redis, running
from tests.project import Project


def enqueue(project: Project, until: Path, mark: Path) -> str:
    """A short job that runs until the file is there."""
    words = ("enqueue", "usertasks:stay", f"until={until}", f"mark={mark}")
    return project.cli(*words).stdout.split()[0]


def state(project: Project, job: str) -> str:
    """A short job's state, as rq has it."""
    return str((redis(project).hget(f"rq:job:{job}", "status") or b"").decode())


def test_drain(laptop: Project, tmp_path: Path) -> None:
    """Ctrl-C leaves all as it was; the second time the job at hand ends, and the next one waits for `up`."""
    prepared(laptop, "[short]\nworkers = 1\n")
    laptop.cli("up", "redis", "short")
    go, mark = tmp_path / "go", tmp_path / "mark"
    first = enqueue(laptop, go, mark)
    laptop.until(mark.exists, "it runs")
    given_up = laptop.start("down", "--drain")
    laptop.until(lambda: redis(laptop).exists("rq:suspended"), "it drains")
    given_up.send_signal(signal.SIGINT)
    said = given_up.communicate(timeout=30)[0]
    assert given_up.returncode == 130, said
    assert "nothing was stopped" in said
    assert not redis(laptop).exists("rq:suspended")
    assert running(laptop) == {"redis", "short"}

    drain = laptop.start("down", "--drain")
    laptop.until(lambda: redis(laptop).exists("rq:suspended"), "it drains")
    second = enqueue(laptop, go, mark)
    go.touch()
    said = drain.communicate(timeout=60)[0]
    assert drain.returncode == 0, said
    assert "waiting for 1 short jobs" in said
    assert running(laptop) == set()
    assert mark.read_text() == "start\n"
    laptop.cli("up", "redis", "short")
    laptop.until(lambda: state(laptop, second) == "finished", "the pool works again")
    assert state(laptop, first) == "finished"

    # What outlasts the timeout goes back; a suspension by somebody else is neither needed nor lifted.
    mark.unlink()
    job = enqueue(laptop, tmp_path / "never", mark)
    laptop.until(mark.exists, "it runs")
    redis(laptop).set("rq:suspended", 1)
    done = laptop.cli("down", "short", "--drain", "--timeout", "1s")
    assert "1 short jobs still run after 1 s" in done.stderr
    assert running(laptop) == {"redis"}
    assert state(laptop, job) == "queued"
    assert redis(laptop).get("rq:suspended") == b"1"
