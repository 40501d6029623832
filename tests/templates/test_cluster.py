"""Every template on the real cluster, a site's own script under a training, and the services' hand-over."""

from __future__ import annotations

import json
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import Cluster
from tests.project import Project

TASKS = '''
from rq import get_current_job

def tell(log, *words):
    with open(log, "ab", buffering=0) as file:
        file.write((" ".join(map(str, words)) + f" {time.time():.3f}\\n").encode())

@task(timeout="2m")
def held(log, name, until, words=""):
    """Tell of the start and, once the file is there (and says so), of the end."""
    tell(log, name, "start", os.getpid())
    while not (Path(until).exists() and words in Path(until).read_text()):
        time.sleep(0.05)
    tell(log, name, "end", os.getpid())

@task(queue="maintenance")
def tick():
    tell(os.path.join(os.path.dirname(__file__), "ticks"), get_current_job().id)
'''
SETTINGS = """
[short]
workers = 2

[schedule.tick]
task = "usertasks:tick"
every = "1s"
"""
GROUP = """
import os, sys, torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(1)
dist.all_reduce(total)
if dist.get_rank() == 0:
    print("ranks", int(total), "on", os.environ["SLURM_NNODES"], "nodes", *sys.argv[1:])
dist.destroy_process_group()
"""
# What each template's job prints.
SAID: dict[str, tuple[str, ...]] = {
    "multinode": ("ranks 4 on 2 nodes --lr 0.1",),
    "training": ("0,1,2,3 8",),
    "preprocessing": ("3",),
    "sweep": ("got --lr 1e-3", "got --lr 1e-2 --seed 'x'"),
    "worker": (),
}


@pytest.fixture
def project(site: Project) -> Project:
    """The site with tasks that tell, and this Python's programs on PATH, as in an active environment."""
    with (site.folder / "usertasks.py").open("a") as file:
        file.write(TASKS)
    with (site.folder / "hpcpools.toml").open("a") as file:
        file.write(SETTINGS)
    site.env["PATH"] = f"{Path(sys.executable).parent}:{site.env['PATH']}"
    return site


def submit(project: Project, *words: str) -> str:
    """The job's id."""
    return project.cli("template", "submit", *words).stdout.strip()


def lines(path: Path) -> list[list[str]]:
    """The words of a log's lines; none while there is no log."""
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def over(cluster: Cluster, job: str) -> set[str]:
    """The states in which a job, or the elements of an array, have ended; none before all have."""
    states = set(cluster.sacct(job).split())
    return set() if states & {"PENDING", "RUNNING", "COMPLETING"} else states


def test_each_template_runs(project: Project, cluster: Cluster) -> None:
    """Submitted with this lab's partitions; each leaves in its output what only the right job could."""
    folder = project.folder
    (folder / "group.py").write_text(GROUP)
    (folder / "points.txt").write_text("--lr 1e-3\n--lr 1e-2 --seed 'x'\n")
    shown = "sh -c 'echo $CUDA_VISIBLE_DEVICES $SLURM_CPUS_PER_TASK $(nproc)'"
    small = ("partition=cpu", "mem=100M", "cpus-per-task=1")
    jobs = {
        "multinode": submit(project, "multinode", "gpus-per-node=2", "command=group.py --lr 0.1"),
        "training": submit(project, "training", "time=5", f"command={shown}"),
        "preprocessing": submit(
            project, "preprocessing", "mem=100M", "cpus-per-task=3", "command=sh -c 'echo $OMP_NUM_THREADS'"
        ),
        "sweep": submit(project, "sweep", "array=0-1%1", "command=echo got"),
        "services": submit(
            project,
            "services",
            *small,
            "time=1",
            "signal=B:USR1@45",
            "output=services-%j.log",
            "command=sleep 70",
        ),
    }
    comment = cluster.run("squeue", "-h", "-j", jobs["multinode"], "-O", "comment:40").stdout.strip()
    assert comment.startswith("ht-")
    assert len(comment) == 29
    project.cli("up", "redis")
    project.cli(
        "enqueue", "usertasks:held", f"log={folder / 'log'}", "name=a", f"until={folder / 'points.txt'}"
    )
    jobs["worker"] = submit(project, "worker", "mem=1G", "cpus-per-task=2")
    # The services: sleep, ended at Slurm's own warning.
    out = {**SAID, "services": ("a successor is submitted", "exit code 143")}
    for name, job in jobs.items():
        ended = cluster.wait(partial(over, cluster, job), 60, f"{name} ends")
        found = sorted(folder.glob(f"{name}-{job}*.log"))
        said = "".join(path.read_text() for path in found)
        assert ended == ({"FAILED"} if name == "services" else {"COMPLETED"}), f"{name}: {ended}\n{said}"
        assert all(words in said for words in out[name]), f"{name}: {said}"
    assert [words[:2] for words in lines(folder / "log")] == [["a", "start"], ["a", "end"]]


def test_dry_run_and_refusals(project: Project, cluster: Cluster) -> None:
    """--dry-run sends nothing; an unknown field, a bad value and an unknown template are one clear line."""
    assert "training" in {row["name"] for row in project.json("template", "list")}
    shown = project.cli("template", "show", "training").stdout
    assert shown == (Path(__file__).parents[2] / "sbatch_templates" / "training.sbatch").read_text()
    before = cluster.jobs()
    text = project.cli("template", "submit", "training", "time=1:00:00", "--dry-run").stdout
    assert "\n#SBATCH --time=1:00:00\n" in text
    assert text == project.cli("template", "render", "training", "time=1:00:00").stdout
    assert cluster.jobs() == before
    for words, code in (
        (("render", "training", "color=red"), 2),
        (("submit", "training", "partition=a b"), 2),
        (("show", "nothing"), 3),
    ):
        done = project.cli("template", *words, check=False)
        assert (done.returncode, "hint: " in done.stderr) == (code, True)
    refused = project.cli("template", "submit", "training", "partition=nothere", check=False)
    assert (refused.returncode, "nothing was queued" in refused.stderr) == (4, True)


def test_an_unclear_answer_is_settled_by_the_comment(
    project: Project, cluster: Cluster, tmp_path: Path
) -> None:
    """sbatch queues the job and fails all the same: it is found, and there is one."""
    real = cluster.run("which", "sbatch").stdout.strip()
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "sbatch").write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && exec {real} "$@"\n{real} "$@" >/dev/null\n'
        "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2\n"
        "exit 1\n"
    )
    (programs / "sbatch").chmod(0o755)
    project.env["PATH"] = f"{programs}:{project.env['PATH']}"
    odd = "a:=@+,._-b"  # as odd as a name may be: it arrives whole, and so does what stands behind it
    done = project.cli("template", "submit", "training", "command=sleep 60", f"job-name={odd}", "time=7")
    assert cluster.run("squeue", "-h", "-o", "%j %l").stdout.strip() == f"{odd} 7:00"
    assert list(cluster.jobs()) == [done.stdout.strip()]
    assert "it is job" in done.stderr


def test_a_site_s_own_script_under_a_training(project: Project, cluster: Cluster) -> None:
    """Its options and set-up count, its command does not; the command line wins; a refusal sends nothing."""
    script = project.folder / "site.sh"
    script.write_text(
        "#!/bin/bash\n#SBATCH -p gpu --gres=gpu:3 -t 7 --exclusive\n#SBATCH --nice=5 -J our-name\n"
        "export FROM_SITE='it was read'\nsrun python never.py\n"
    )
    command = ("--", "sh", "-c", "echo $FROM_SITE on $CUDA_VISIBLE_DEVICES")
    shown = project.cli("train", "--template", script, "--gpus", "2", "--dry-run", *command).stdout
    for line in ("--nice=5", "--gpus-per-node=2", "--time=7", "--partition=gpu", "--requeue"):
        assert f"#SBATCH {line}\n" in shown
    assert "never.py" not in shown
    swept = project.cli("sweep", "--template", script, "--dry-run", "x=1,2", "--", "echo", "{x}").stdout
    for line in ("--nice=5", "--gpus-per-node=3", "--time=7", "--partition=gpu", "--array=0-1%2"):
        assert f"#SBATCH {line}\n" in swept, swept
    token = project.train("--template", script, "--gpus", "2", *command)
    project.cli("wait", token)
    assert "it was read on 0,1" in project.cli("logs", token).stdout
    assert project.json("show", token)["label"] == "our-name"
    script.write_text(script.read_text().replace("--exclusive", "--ntasks=8"))
    refused = project.cli("train", "--template", script, *command, check=False)
    assert refused.returncode == 2
    assert "site.sh:2: --ntasks=8 contradicts" in refused.stderr


def services(project: Project) -> dict[str, Any]:
    """Service → its row, of those that run."""
    found = project.cli("ps", "--json", check=False)
    rows = json.loads(found.stdout) if found.returncode == 0 else []
    return {row["name"]: row for row in rows if row["state"] == "running"}


def test_the_services_hand_over(project: Project, cluster: Cluster) -> None:
    """A successor on the same node; what ran is finished or put back, nothing lost; each slot fires once."""
    folder, wanted = project.folder, {"redis", "short", "scheduler"}
    log, said, go = folder / "log", folder / "pool-of-a-test.log", folder / "go"
    own = folder / "templates"
    own.mkdir()
    text = (Path(__file__).parents[2] / "sbatch_templates" / "services.sbatch").read_text()
    (own / "services.sbatch").write_text(text.replace("--timeout 3m", "--timeout 2s"))
    settings = (folder / "hpcpools.toml").read_text()
    (folder / "hpcpools.toml").write_text(settings.replace("[project]", '[project]\ntemplates = "templates"'))
    home = cluster.nodes[2]  # not the one that Slurm would choose
    (folder / "services.node").symlink_to(home)
    submit(
        project,
        *("services", "partition=gpu", "mem=1G", "time=10", "job-name=pool-of-a-test"),
        "command=hpcpools up --foreground redis short scheduler",
    )
    project.until(lambda: services(project).keys() == wanted, "the services run")
    before = services(project)
    (first,) = cluster.jobs()
    for name, until, words in (("quick", said, "nearly over"), ("slow", go, ""), ("waits", go, "")):
        project.cli(
            "enqueue", "usertasks:held", f"log={log}", f"name={name}", f"until={until}", f"words={words}"
        )
    project.until(lambda: len(lines(log)) == 2, "two tasks run, one waits")
    step = ("srun", f"--jobid={first}", "--overlap", f"--chdir={folder}", "hpcpools", "jobs")
    env = (f"{name}={project.env[name]}" for name in ("XDG_STATE_HOME", "PATH"))
    assert "held" in cluster.run("env", *env, *step).stdout
    cluster.run("scancel", "--batch", "--signal=USR1", first)  # as Slurm does before the limit
    ticks = len(lines(folder / "ticks"))
    project.until(lambda: cluster.jobs().get(first) is None, "the first job is over", 60)
    project.until(lambda: services(project).keys() == wanted, "its successor's services run")
    go.write_text("")
    project.until(lambda: len([w for w in lines(log) if w[1] == "end"]) == 3, "all tasks ended")
    project.until(lambda: len(lines(folder / "ticks")) > ticks + 2, "the schedule goes on")
    (second,) = cluster.jobs()
    after = services(project)
    assert all(after[name]["pid"] != before[name]["pid"] for name in wanted)
    where = cluster.run("squeue", "-h", "-o", "%N", "-j", second).stdout.strip()
    assert cluster.sacct(first, "NodeList") == where == home
    assert cluster.sacct(first) == "COMPLETED"
    starts: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    alive: dict[str, str] = {}
    for name, what, pid, _ in lines(log):
        if what == "start":
            starts[name] += 1
            alive[name] = pid
        else:
            ends[name] += 1
            assert alive.pop(name) == pid
    assert ends == {"quick": 1, "slow": 1, "waits": 1}
    assert (starts["quick"], starts["slow"]) == (1, 2)
    assert starts["waits"] <= 2  # it may have begun between the warning and the end
    fired = Counter(words[0] for words in lines(folder / "ticks"))
    assert set(fired.values()) == {1}
    cluster.run("scancel", "--name=pool-of-a-test")
    project.until(lambda: not cluster.jobs(), "the pool ends, and nothing follows it")
    assert "stopped" in {row["state"] for row in project.json("ps")}
    assert "ended with exit code 0" in said.read_text().splitlines()[-1]
