"""Stock rq as another program would use it on our Redis: its classes with the JSON serializer, its words."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from click.testing import CliRunner
from rq import Queue, Worker
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.worker import BaseWorker

from hpcpools.cli import group
from hpcpools.short.enqueue import ShortJob
from tests.short.lab import ROOT, TASKS, Lab, wait_for

JSON = JSONSerializer


def give(lab: Lab, function: str, arguments: dict[str, Any] | None = None, /, **options: Any) -> ShortJob:
    """Enqueue one of the test tasks with options of ``hpcpools.enqueue``."""
    return lab.client.enqueue(f"{TASKS}:{function}", {"log": str(lab.log), **(arguments or {})}, **options)


def hold(lab: Lab, **options: Any) -> ShortJob:
    """A job that runs now, until :func:`release`."""
    job = give(lab, "wait_for_file", {"path": str(lab.folder / "gate")}, **options)
    wait_for(lambda: job.refresh().state == "started", "it is started")
    wait_for(lambda: lab.lines() and lab.lines()[-1][0] == "wait", "it runs")
    return job


def release(lab: Lab) -> None:
    """Let the held jobs end."""
    (lab.folder / "gate").touch()


def stock(lab: Lab, job: ShortJob | str) -> Job:
    """The job as stock rq reads it."""
    return Job.fetch(job if isinstance(job, str) else job.id, connection=lab.redis, serializer=JSON)


def queue(lab: Lab, name: str = "default") -> Queue:
    """The queue as stock rq sees it, with its registries."""
    return Queue(name, connection=lab.redis, serializer=JSON)


def workers(lab: Lab) -> dict[str, BaseWorker]:
    """Every registered worker as stock rq reads it."""
    return {each.name: each for each in Worker.all(connection=lab.redis, serializer=JSON)}


def rq(lab: Lab, *words: str) -> str:
    """The output of rq's own command line, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "rq.cli", *words, "--url", lab.config.redis.url],
        cwd=lab.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{words} → {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def cli(lab: Lab, *words: str) -> str:
    """The output of our command line, in this process; raises our errors as they are."""
    done = CliRunner().invoke(group, ["--config", lab.config.file, *words])
    if done.exception:
        raise done.exception
    return done.output


def configure(lab: Lab, line: str) -> None:
    """Add a line to ``[short]`` for the pools that are started from now on."""
    file = lab.folder / "hpcpools.toml"
    file.write_text(file.read_text().replace("[short]\n", f"[short]\n{line}\n"))
