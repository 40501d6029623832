"""Pipelines and continuous evaluation through the real command line, without Slurm and with it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.cluster.cluster import Cluster
from tests.journeys.test_sweeps import arrays, counted, most_at_once, ready, shim
from tests.project import Project

TASKS = """
@task(queue="preprocessing")
def prepare(mark):
    _mark(mark, "prepare")
    return {"steps": 3}

@training(time="5m", launcher="single", gpus=0)
def fit(run, steps, mark, go="", lr=0.1):
    _mark(mark, "fit")
    while go and not Path(go).exists():
        time.sleep(0.05)
    if Path(mark + ".broken").exists():
        raise RuntimeError("broken weights")
    for step in range(1, steps + 1):
        with run.checkpoint(step) as folder:
            (folder / "weights").write_text(str(step))
    return {"loss": lr / steps}

@task(queue="evaluation")
def judge(mark, loss, checkpoint):
    _mark(mark, "judge")
    return {"loss": loss, "file": Path(checkpoint, "weights").read_text()}

@task(queue="evaluation")
def score(checkpoint, step):
    _mark(str(Path(checkpoint).parents[2] / "scores"), str(step))
    return step

def _mark(path, word):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, (word + "\\n").encode())
    os.close(fd)
"""
FILE = """
name = "chain"
[stages.prepare]
task = "usertasks:prepare"
arguments = {{mark = "{mark}"}}
[stages.train]
task = "usertasks:fit"
arguments = {{mark = "{mark}", go = "{go}", steps = {{"$from" = "prepare", key = "steps"}}}}
[stages.evaluate]
task = "usertasks:judge"
[stages.evaluate.arguments]
mark = "{mark}"
loss = {{"$from" = "train", key = "loss"}}
checkpoint = {{"$from" = "train", of = "checkpoint"}}
"""
QUICK = """
[schedule.advance_pipelines]
task = "hpcpools.maintenance:advance_pipelines"
every = "1s"
[continuous_evaluation]
"usertasks:fit" = "usertasks:score"
"""


def prepared(project: Project, folder: Path, settings: str = "") -> tuple[Path, Path]:
    """The project with the chain's tasks; the files of its marks and of the leave to go on."""
    tasks = project.folder / "usertasks.py"
    tasks.write_text(tasks.read_text() + TASKS)
    project.configure(settings + QUICK)
    marks, go = folder / "marks", folder / "go"
    (project.folder / "chain.toml").write_text(FILE.format(mark=marks, go=go))
    return marks, go


def kill_services(project: Project) -> None:
    """kill -9 of the supervisor and of all that it runs."""
    (lock,) = Path(project.env["XDG_STATE_HOME"]).rglob("supervisor.lock")
    pids = [row["pid"] for row in project.json("ps") if row["pid"]]
    for pid in (json.loads(lock.read_text())["pid"], *pids):
        with contextlib.suppress(ProcessLookupError):  # it died with its supervisor
            os.kill(pid, signal.SIGKILL)


def states(project: Project, name: str) -> list[str]:
    """Of the three stages."""
    return [stage["state"] for stage in project.json("pipeline", "status", name)["stages"]]


def test_values_pass_and_the_scheduler_drives(laptop: Project, tmp_path: Path) -> None:
    """Nobody waits: upkeep alone brings it to its end; checkpoints are evaluated on the way."""
    marks, go = prepared(laptop, tmp_path)
    go.write_text("")
    planned = laptop.json("pipeline", "run", "chain.toml", "--dry-run")["stages"]
    assert [(row["stage"], row["pool"]) for row in planned] == [
        ("prepare", "short"),
        ("train", "training"),
        ("evaluate", "short"),
    ]
    assert not (laptop.root / ".pipelines").exists()
    name = laptop.cli("pipeline", "run", "chain.toml").stdout.strip()
    laptop.until(lambda: laptop.json("pipeline", "status", name)["state"] == "COMPLETED", "the end")
    assert marks.read_text().split() == ["prepare", "fit", "judge"]
    stages = laptop.json("pipeline", "status", name)["stages"]
    (token,) = stages[1]["work"]
    shown = laptop.until(
        lambda: (found := laptop.json("show", token)) and len(found["evaluations"]) == 3 and found,
        "the evaluations",
    )
    laptop.until((laptop.root / ".evaluations" / token).exists, "they have ended")
    assert [each["step"] for each in shown["evaluations"]] == [1, 2, 3]
    assert sorted((laptop.root / "scores").read_text().split()) == ["1", "2", "3"]
    job = stages[2]["work"][0]  # its id begins as the pipeline's does
    assert laptop.json("show", job)["result"] == {"loss": 0.1 / 3, "file": "3"}
    assert laptop.json("explain", job)["state"] == "finished"
    assert name in laptop.cli("pipeline", "status").stdout


def test_a_failed_training_blocks_and_retry_goes_on(laptop: Project, tmp_path: Path) -> None:
    """`wait` exits 5, `explain` says why and what to do, `retry --from` goes on from there only."""
    marks, go = prepared(laptop, tmp_path)
    go.write_text("")
    broken = Path(f"{marks}.broken")
    broken.write_text("")
    done = laptop.cli("pipeline", "run", "chain.toml", "--wait", check=False)
    assert done.returncode == 5, done.stderr
    name = done.stdout.split()[0]
    assert states(laptop, name) == ["COMPLETED", "FAILED", "BLOCKED"]
    told = laptop.cli("pipeline", "explain", name).stdout
    assert "broken weights" in told
    assert f"hpcpools pipeline retry {name} --from train" in told
    broken.unlink()
    assert "train" in laptop.cli("pipeline", "retry", name, "--dry-run").stdout
    assert states(laptop, name) == ["COMPLETED", "FAILED", "BLOCKED"]
    laptop.cli("pipeline", "retry", name, "--from", "train")
    laptop.cli("pipeline", "wait", name)
    assert states(laptop, name) == ["COMPLETED"] * 3
    assert marks.read_text().split() == ["prepare", "fit", "fit", "judge"]
    assert [stage["try"] for stage in laptop.json("pipeline", "status", name)["stages"]] == [1, 2, 2]


def test_all_services_killed_in_the_middle(laptop: Project, tmp_path: Path) -> None:
    """kill -9 of the supervisor and all it runs while the training trains; `up` again: each stage once."""
    marks, go = prepared(laptop, tmp_path)
    name = laptop.cli("pipeline", "run", "chain.toml").stdout.strip()
    laptop.until(lambda: marks.exists() and "fit" in marks.read_text(), "the training")
    kill_services(laptop)
    go.write_text("")
    assert laptop.json("pipeline", "status", name)["state"] == "RUNNING"
    laptop.cli("up")
    laptop.until(lambda: laptop.json("pipeline", "status", name)["state"] == "COMPLETED", "the end")
    assert marks.read_text().split() == ["prepare", "fit", "judge"]


def test_cancel_ends_all_of_it(laptop: Project, tmp_path: Path) -> None:
    """The training ends, the evaluation never starts."""
    marks, _go = prepared(laptop, tmp_path)
    name = laptop.cli("pipeline", "run", "chain.toml").stdout.strip()
    laptop.until(lambda: marks.exists() and "fit" in marks.read_text(), "the training")
    assert "would cancel" in laptop.cli("pipeline", "cancel", name, "--dry-run").stdout
    assert laptop.json("pipeline", "status", name)["state"] == "RUNNING"
    laptop.cli("pipeline", "cancel", name)
    laptop.until(lambda: states(laptop, name) == ["COMPLETED", "CANCELLED", "CANCELLED"], "the end")
    assert laptop.cli("pipeline", "wait", name, check=False).returncode == 5


def test_a_wrong_file_starts_nothing(laptop: Project, tmp_path: Path) -> None:
    """Exit 78, the file and the stage in the message, nothing written."""
    prepared(laptop, tmp_path)
    file = laptop.folder / "chain.toml"
    file.write_text(file.read_text().replace("usertasks:judge", "usertasks:juge"))
    done = laptop.cli("pipeline", "run", "chain.toml", check=False)
    assert done.returncode == 78
    assert "chain.toml: stages.evaluate" in done.stderr
    assert not laptop.root.exists()


API = """
import hpcpools
chain = hpcpools.Pipeline("from python")
data = chain.stage("data", "usertasks:prepare", mark="{mark}")
fitted = chain.stage(
    "fit", "usertasks:fit", mark="{mark}", steps=data.result("steps"), sweep={{"lr": [0.3, 0.6]}}
)
chain.stage("all", "usertasks:gather", losses=fitted.result("loss"))
started = chain.run()
print(started.wait(timeout=90), started.result("all"))
"""


def test_from_python_with_a_sweep(laptop: Project, tmp_path: Path) -> None:
    """The builder; the last stage gets one value per run, in the order of the sweep."""
    marks, _go = prepared(laptop, tmp_path)
    tasks = laptop.folder / "usertasks.py"
    tasks.write_text(
        tasks.read_text() + "\n@task\ndef gather(losses):\n    return [round(30 * x) for x in losses]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", API.format(mark=marks)],
        cwd=laptop.folder,
        env=laptop.env,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["COMPLETED", "[3,", "6]"]
    assert sorted(marks.read_text().split()) == ["fit", "fit", "prepare"]


def test_a_pipeline_on_the_cluster(site: Project, cluster: Cluster, tmp_path: Path) -> None:
    """Short, Slurm, short; the services restarted in the middle; exactly one Slurm job."""
    settings = (site.folder / "hpcpools.toml").read_text().partition("\n\n")[2]
    marks, go = prepared(site, tmp_path, settings)
    site.cli("up")
    name = site.cli("pipeline", "run", "chain.toml").stdout.strip()
    site.until(lambda: marks.exists() and "fit" in marks.read_text(), "the training on its node")
    site.cli("down")
    go.write_text("")
    site.cli("up")
    site.until(lambda: site.json("pipeline", "status", name)["state"] == "COMPLETED", "the end")
    assert marks.read_text().split() == ["prepare", "fit", "judge"]
    (token,) = site.json("pipeline", "status", name)["stages"][1]["work"]
    assert site.json("show", token)["node"] in cluster.nodes
    assert len(site.json("show", token)["attempts"]) == 1
    site.until((site.root / ".evaluations" / token).exists, "all checkpoints are evaluated")
    assert sorted((site.root / "scores").read_text().split()) == ["1", "2", "3"]


def test_killed_while_sbatch_hangs(site: Project, cluster: Cluster, tmp_path: Path) -> None:
    """The starter dies between its record and Slurm's answer: whoever comes next finds one run, one start."""
    marks, go = tmp_path / "marks", tmp_path / "go"
    (site.folder / "hold.toml").write_text(
        f'[stages.train]\ntask = "usertasks:hold"\narguments = {{until = "{go}", mark = "{marks}"}}\n'
    )
    cluster.pause_controller()
    starter = site.start("pipeline", "run", "hold.toml")
    site.until(lambda: list(site.root.glob("hp-*/submitit/*.sbatch")), "the script is written")
    starter.kill()
    starter.communicate()
    cluster.resume_controller()
    name = site.json("pipeline", "status")["pipelines"][0]["id"]
    waiting = site.start("pipeline", "wait", name)
    site.until(marks.exists, "it starts", timeout=90)
    go.write_text("")
    out, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, out
    assert [line.split()[1] for line in marks.read_text().splitlines()] == ["start", "end"]
    assert len(list(site.root.glob("hp-*"))) == 1


def test_requeues_and_killed_scanners_evaluate_each_checkpoint_once(
    site: Project, cluster: Cluster, tmp_path: Path
) -> None:
    """20 checkpoints, requeued three times while it trains, all services killed twice: 20 evaluations."""
    settings = (site.folder / "hpcpools.toml").read_text().partition("\n\n")[2]
    prepared(site, tmp_path, settings)
    site.configure(settings + QUICK.replace("usertasks:fit", "usertasks:slow"))
    site.cli("up")
    token = site.train("usertasks:slow", "steps=20", "pace=0.2")
    run = site.root / token
    for number in range(1, 4):
        site.until((run / "checkpoints" / f"step-{4 * number:09d}").exists, "some checkpoints", timeout=90)
        cluster.run("scontrol", "requeue", json.loads((run / "submissions/0.job.json").read_text())["job_id"])
        if number < 3:
            kill_services(site)
            site.cli("up")
    site.until_state(token, "COMPLETED", timeout=120)
    site.until((site.root / ".evaluations" / token).exists, "all checkpoints are evaluated")
    scores = (site.root / "scores").read_text().split()
    assert sorted(map(int, scores)) == list(range(1, 21))
    assert len(site.json("show", token)["attempts"]) == 4


FAN_OUT = """
[stages.search]
task = "sweeptasks:fit"
arguments = {{go = "{go}", broken = "{broken}"}}
sweep = {{seed = [0, 1, 2, 4]}}
max_parallel = 2
"""


def fan_out(site: Project, folder: Path) -> tuple[Path, Path]:
    """A pipeline of one sweep, as fan.toml; the file its runs wait for, the one by which seed 1 breaks."""
    ready(site)
    go, broken = folder / "go", folder / "broken"
    (site.folder / "fan.toml").write_text(FAN_OUT.format(go=go, broken=broken))
    return go, broken


def test_a_fan_out_is_one_array_and_its_retry_another(
    site: Project, cluster: Cluster, tmp_path: Path
) -> None:
    """Four runs, one sbatch, two at a time; one fails; the retry sends that one alone."""
    go, broken = fan_out(site, tmp_path)
    broken.write_text("")
    calls = counted(site, tmp_path / "shims", "sbatch")
    name = site.cli("pipeline", "run", "fan.toml").stdout.strip()
    assert calls.read_text().split() == ["sbatch"]
    (stage,) = site.json("pipeline", "status", name)["stages"]
    sweep = stage["sweep"]
    assert sweep in site.cli("pipeline", "status", name).stdout
    assert [row["run"] for row in site.json("sweeps", sweep)["elements"]] == stage["work"]
    go.write_text("")
    assert site.cli("wait", name, check=False).returncode == 5
    assert len(arrays(cluster, sweep)) == 1
    assert most_at_once(Path(f"{go}.marks")) <= 2
    assert f"hpcpools sweeps {sweep}" in site.cli("pipeline", "explain", name).stdout
    broken.unlink()
    site.cli("pipeline", "retry", name)
    site.cli("wait", name)
    assert calls.read_text().split() == ["sbatch"] * 2
    rows = site.json("sweeps", sweep)["elements"]
    assert [(row["state"], row["attempts"]) for row in rows] == [("COMPLETED", n) for n in (1, 2, 1, 1)]
    assert [each["seed"] for each in site.json("result", name)["search"]] == [0, 1, 2, 4]


def test_killed_between_the_array_and_its_record(site: Project, cluster: Cluster, tmp_path: Path) -> None:
    """kill -9 after sbatch took the array and before its answer was read: adopted, not sent again."""
    go, _broken = fan_out(site, tmp_path)
    hang = tmp_path / "hang"
    hang.write_text("")
    slow = f'"$REAL" "$@"; [ "$1" = --version ] || [ ! -e {hang} ] || exec sleep 60'
    shim(site, tmp_path / "shims", "sbatch", slow)
    starter = site.start("pipeline", "run", "fan.toml")
    cluster.wait(cluster.jobs, 30, "the array is queued")
    os.kill(starter.pid, signal.SIGKILL)
    starter.communicate()
    hang.unlink()
    go.write_text("")
    name = site.json("pipeline", "status")["pipelines"][0]["id"]
    site.cli("pipeline", "wait", name)
    (stage,) = site.json("pipeline", "status", name)["stages"]
    assert len(arrays(cluster, stage["sweep"])) == 1
    assert Path(f"{go}.marks").read_text().count("start") == 4


def test_a_fan_out_is_cancelled_as_one(site: Project, cluster: Cluster, tmp_path: Path) -> None:
    """One scancel; `cancel` and `wait` take a pipeline's id, or the start of it."""
    fan_out(site, tmp_path)
    calls = counted(site, tmp_path / "shims", "scancel")
    name = site.cli("pipeline", "run", "fan.toml").stdout.strip()
    short = name[:20]
    assert "would cancel" in site.cli("cancel", short, "--dry-run").stdout
    site.cli("cancel", short)
    ended = site.cli("wait", short, "--timeout", "90s", "--json", check=False)
    assert (ended.returncode, json.loads(ended.stdout)[0]["state"]) == (5, "CANCELLED")
    assert calls.read_text().split() == ["scancel"]
