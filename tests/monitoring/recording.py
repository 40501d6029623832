"""The terminal output in docs/monitoring.md: ``python -m tests.monitoring.recording``, from pools on the lab.

A block of the page after ``<!-- recorded: COMMANDS -->`` is what these commands print, one after the other.
They stand between ``;;`` and name what the scene has as ``{run}``, ``{failed}``, ``{job}`` and ``{group}``.
Folders and host names of the machine where it is recorded are taken out.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.cluster import Cluster
from tests.cluster.lab import Lab
from tests.cluster.layout import VARIANTS
from tests.conftest import SITE, state_home
from tests.project import Project

PAGE = Path(__file__).parents[2] / "docs" / "monitoring.md"
BLOCK = re.compile(r"<!-- recorded: (?P<commands>.+?) -->\n```console\n(?P<text>.*?)```\n", re.S)
COLUMNS = "100"
TASKS = '''
import math, time
from hpcpools import task, training

@training(gpus=1, time="10m", launcher="single")
def train_model(run, lr=0.01, steps=400, fails_at=0):
    """A loss curve that falls, or an end that many know."""
    for step in range(1, steps + 1):
        loss = 0.2 + 2.1 * math.exp(-step * lr) + 0.05 * math.sin(step / 3) / (1 + step / 90)
        run.log(step=step, total=steps, loss=loss)
        if step == fails_at:
            raise ValueError(f"loss is nan at step {step}")
        time.sleep(0.005)
    print(f"done after {steps} steps, loss {loss:.3f}")
    return {"loss": loss}

@task(timeout="1m")
def evaluate(checkpoint):
    time.sleep(1.1)
    print("evaluating", checkpoint)
    return {"accuracy": 0.91}

@task(timeout="1m")
def read_shard(number):
    raise FileNotFoundError(f"/data/shards/{number:05d}.tar")
'''


@dataclass
class Scene:
    """The project on the lab, and what ``{...}`` stands for."""

    project: Project
    names: dict[str, str]


def main() -> None:
    """Bring up the lab and the pools, let them work, record each block, take all down."""
    lab = Lab(VARIANTS["accounting"])
    started = lab.up()
    cluster = Cluster(lab)
    try:
        with tempfile.TemporaryDirectory() as folder, state_home() as state:
            settings = SITE.format(partition=cluster.partition, gpus=cluster.gpus_per_node)
            project = Project(Path(folder) / "project", {**cluster.env, "XDG_STATE_HOME": state}, settings)
            project.env |= {
                "COLUMNS": COLUMNS,
                "PATH": f"{Path(sys.executable).parent}:{project.env['PATH']}",
            }
            try:
                PAGE.write_text(recorded(PAGE.read_text(), make(project)))
            finally:
                project.close()
    finally:
        if started:
            lab.down()


def make(project: Project) -> Scene:
    """Two trainings that fail alike, one that ends well, short jobs of both kinds, and upkeep that saw it."""
    (project.folder / "tasks.py").write_text(TASKS)
    file = project.folder / "hpcpools.toml"
    file.write_text(file.read_text().replace('"usertasks"', '"tasks"') + "\n[short]\nworkers = 2\n")
    project.cli("up")
    runs = [
        project.train("tasks:train_model", *words, "--label", label)
        for label, *words in (
            ("digits", "lr=0.01"),
            ("digits-fast", "lr=0.3", "fails_at=31"),
            ("digits-faster", "lr=0.9", "fails_at=12"),
        )
    ]
    jobs = [project.cli("enqueue", "tasks:read_shard", f"number={n}").stdout.strip() for n in (4, 17, 180)]
    job = project.cli("enqueue", "tasks:evaluate", "checkpoint=step-400").stdout.strip()
    project.cli("wait", *runs, *jobs, job, check=False)
    project.cli("schedule", "run-now", "scan_failed_jobs")
    project.until(lambda: "verdict" in project.cli("logs", "all", "--about", runs[1]).stdout, "the verdict")
    [group] = [row["group"] for row in project.json("failures")["groups"] if "FileNotFound" in row["what"]]
    return Scene(project, {"run": runs[0], "failed": runs[1], "job": job, "group": group})


def recorded(page: str, scene: Scene) -> str:
    """The page with each block made anew."""

    def block(found: re.Match[str]) -> str:
        commands = found["commands"]
        for name, value in scene.names.items():
            commands = commands.replace(f"{{{name}}}", value)
        lines = [line.strip() for line in commands.split(";;")]
        text = "\n".join(f"$ {line}\n{said(scene, line)}" for line in lines)
        return f"<!-- recorded: {found['commands']} -->\n```console\n{text}```\n"

    return BLOCK.sub(block, page)


def said(scene: Scene, command: str) -> str:
    """What a command prints on a terminal's two streams, with nothing of this machine in it."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=scene.project.folder,
        env=scene.project.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return cleaned(done.stdout, scene.project)


def cleaned(text: str, project: Project) -> str:
    """Without folders and names of the machine, and without blanks at the ends of lines."""
    host = socket.gethostname()
    state = re.escape(project.env["XDG_STATE_HOME"])
    lab = re.escape(str(Path(project.env["SLURM_CONF"]).parent))
    for pattern, instead in (
        (rf"{state}/hpcpools/[\w.-]+/project-\w+", "~/.local/state/hpcpools/login1/project-1f0c2a"),
        (state, "~/.local/state"),
        (re.escape(str(project.folder)), "~/project"),
        (lab, "/etc/slurm"),
        (re.escape(str(Path(sys.executable).parent.parent)), "~/venv"),
        (rf"\b{re.escape(host.partition('.')[0])}(\.[\w.-]+)?\b", "login1"),
        (r"[ \t]+$", ""),
    ):
        text = re.sub(pattern, instead, text, flags=re.M)
    return text


if __name__ == "__main__":
    main()
