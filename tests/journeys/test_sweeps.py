"""Sweeps on a real Slurm and on a laptop: one array, each element a run of its own."""

from __future__ import annotations

import csv
import io
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.cluster.cluster import Cluster
from tests.parity.stage import Stage
from tests.project import Project

TASKS = '''
import json, time
from pathlib import Path
from hpcpools import training

@training(time="5m", launcher="single")
def fit(run, go, lr=0.1, seed=0, broken=""):
    """Runs until the file is there; logs what it was given; breaks for some seeds while a file says so."""
    with open(go + ".marks", "a") as file:
        file.write(f"{seed} start {time.time()}\\n")
    run.log(step=1, total=1, loss=lr * (seed + 1))
    while not Path(go).exists() and not run.should_stop:
        time.sleep(0.05)
    with open(go + ".marks", "a") as file:
        file.write(f"{seed} end {time.time()}\\n")
    if broken and Path(broken).exists() and seed in (1, 3):
        raise RuntimeError("a bad seed")
    return {"acc": 1 - lr * seed, "seed": seed}
'''


def ready(project: Project) -> Project:
    """With the task of these tests."""
    (project.folder / "sweeptasks.py").write_text(TASKS)
    settings = project.folder / "hpcpools.toml"
    settings.write_text(settings.read_text().replace('["usertasks"]', '["usertasks", "sweeptasks"]', 1))
    return project


def shim(site: Project, folder: Path, command: str, line: str) -> None:
    """Put ``line`` (``$REAL`` is the real command) before a Slurm command on the PATH."""
    folder.mkdir(exist_ok=True)
    script = folder / command
    real = shutil.which(command, path=site.env["PATH"].replace(f"{folder}:", ""))
    script.write_text(f"#!/bin/sh\nREAL={real}\n{line}\n")
    script.chmod(0o755)
    if str(folder) not in site.env["PATH"]:
        site.env["PATH"] = f"{folder}:{site.env['PATH']}"


def counted(site: Project, folder: Path, *commands: str) -> Path:
    """Log every call of some Slurm commands; the log."""
    log = folder / "calls"
    for command in commands:
        shim(site, folder, command, f'[ "$1" = --version ] || echo {command} >> {log}\nexec $REAL "$@"')
    return log


def most_at_once(marks: Path) -> int:
    """How many elements ran at the same time, by their own account."""
    steps = [line.split() for line in marks.read_text().splitlines()]
    running = most = 0
    for _, what, _ in sorted(steps, key=lambda step: float(step[2])):
        running += 1 if what == "start" else -1
        most = max(most, running)
    return most


def states(project: Project, sweep: str) -> list[str]:
    """The states of its elements."""
    return [str(row["state"]) for row in project.json("sweeps", sweep)["elements"]]


def arrays(cluster: Cluster | Stage, sweep: str) -> set[str]:
    """The ids of the arrays that Slurm has of a sweep, ended ones too."""
    listing = cluster.run("squeue", "--me", "-t", "all", "-h", "-r", "-O", "ArrayJobID:20,Comment:64").stdout
    return {line.split()[0] for line in listing.splitlines() if sweep in line}


def test_a_sweep_is_one_array(play: Project, stage: Stage, tmp_path: Path) -> None:
    """Six elements, two at once: one sbatch, six full runs, all COMPLETED, and a table of results."""
    ready(play)
    go = tmp_path / "go"
    calls = counted(play, tmp_path / "shims", "sbatch")
    words = ("sweeptasks:fit", f"go={go}", "lr=0.1,0.01", "seed=0..2", "--max-parallel", "2")
    script = play.cli("sweep", *words, "--dry-run").stdout
    assert "#SBATCH --array=0-5%2\n" in script
    assert not calls.exists()
    assert not list(play.root.glob("hp-*"))
    sweep = play.cli("sweep", *words).stdout.strip()
    (play.folder / "sweeptasks.py").write_text("1 / 0  # edited after submission: the snapshot runs\n")
    play.until(lambda: states(play, sweep).count("RUNNING") == 2, "two elements run")
    rows = play.json("sweeps", sweep)["elements"]
    assert [row["state"] for row in rows].count("PENDING") == 4
    running, waiting = rows[0]["run"], rows[5]["run"]
    play.until(lambda: play.json("show", waiting)["reason"] == "JobArrayTaskLimit", "Slurm says why")
    assert play.json("show", running)["job_id"].endswith("_0")
    assert play.json("runs")["runs"][0]["state"] in ("RUNNING", "PENDING")
    go.write_text("")
    play.cli("wait", sweep)
    assert calls.read_text().split() == ["sbatch"]
    assert len(arrays(stage, sweep)) == 1
    assert most_at_once(Path(f"{go}.marks")) <= 2
    rows = play.json("sweeps", sweep, "--sort", "acc")["elements"]
    assert {row["state"] for row in rows} == {"COMPLETED"}
    assert [round(row["result"]["result.acc"], 2) for row in rows] == [0.8, 0.9, 0.98, 0.99, 1.0, 1.0]
    assert rows[0]["arguments"] == {"go": str(go), "lr": 0.1, "seed": 2}
    table = play.cli("sweeps", sweep).stdout.splitlines()
    assert table[0].split() == ["#", "RUN", "STATE", "lr", "seed", "loss", "result.acc", "result.seed"] + [
        "STEP",
        "CAUSE",
    ]
    written = list(csv.DictReader(io.StringIO(play.cli("sweeps", sweep, "--csv", "--sort", "loss").stdout)))
    assert [row["seed"] for row in written][:2] == ["0", "1"]
    assert written[0]["go"] == str(go)
    assert play.json("sweeps")[0]["states"] == {"COMPLETED": 6}


def test_only_what_failed_is_retried(site: Project, cluster: Cluster, tmp_path: Path) -> None:
    """Two of five fail: one new array with those two, as new submissions of the same runs."""
    ready(site)
    go, broken = tmp_path / "go", tmp_path / "broken"
    go.write_text("")
    broken.write_text("")
    calls = counted(site, tmp_path / "shims", "sbatch")
    sweep = site.cli("sweep", "sweeptasks:fit", f"go={go}", f"broken={broken}", "seed=0..4").stdout.strip()
    assert site.cli("wait", sweep, check=False).returncode == 5
    tokens = [row["run"] for row in site.json("sweeps", sweep)["elements"]]
    bad = [tokens[1], tokens[3]]
    assert site.json("sweeps", sweep, "--retry", "--dry-run")["retried"] == bad
    assert calls.read_text().split() == ["sbatch"]
    broken.unlink()
    first, second = (site.start("sweeps", sweep, "--retry", "--json") for _ in range(2))  # both at once
    said = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert [sum(text.count(token) for text in said) for token in bad] == [1, 1], said
    site.cli("wait", sweep)
    assert len(calls.read_text().split()) <= 3
    rows = site.json("sweeps", sweep)["elements"]
    assert [row["state"] for row in rows] == ["COMPLETED"] * 5
    assert [row["attempts"] for row in rows] == [1, 2, 1, 2, 1]
    marks = [line.split()[0] for line in Path(f"{go}.marks").read_text().splitlines() if "start" in line]
    assert sorted(marks) == ["0", "1", "1", "2", "3", "3", "4"]
    assert "a bad seed" in site.cli("logs", bad[0], "--attempt", "1").stdout
    assert site.json("sweeps", sweep, "--retry")["retried"] == []


def test_a_timed_out_sbatch_makes_one_array(site: Project, cluster: Cluster, tmp_path: Path) -> None:
    """REL-10: the controller freezes under sbatch, the array exists: found by its key, not sent again."""
    ready(site)
    go = tmp_path / "go"
    controller = cluster.lab.controller()
    assert controller is not None
    calls = counted(site, tmp_path / "shims", "sbatch")
    freeze = f'[ "$1" = --version ] || {{ echo sbatch >> {calls}; kill -STOP {controller.pid}; }}'
    shim(site, tmp_path / "shims", "sbatch", f'{freeze}\nexec $REAL "$@"')
    submission = site.start("sweep", "sweeptasks:fit", f"go={go}", "seed=0..2")
    site.until(
        lambda: any("unsettled" in path.read_text() for path in site.root.glob("hp-*/events.jsonl")),
        "sbatch times out",
    )
    cluster.resume_controller()
    out, _ = submission.communicate(timeout=90)
    assert submission.returncode == 0, out
    sweep = next(word for word in out.split() if word.startswith("hs-"))
    assert calls.read_text().split() == ["sbatch"]
    assert len(arrays(cluster, sweep)) == 1
    go.write_text("")
    site.cli("wait", sweep)
    assert Path(f"{go}.marks").read_text().count("start") == 3


def test_a_killed_command_line_doubles_no_array(site: Project, cluster: Cluster, tmp_path: Path) -> None:
    """kill -9 after sbatch was accepted and before its answer was read: the next look adopts each element."""
    ready(site)
    go = tmp_path / "go"
    shim(site, tmp_path / "shims", "sbatch", '"$REAL" "$@"; [ "$1" = --version ] || exec sleep 60')
    submission = site.start("sweep", "sweeptasks:fit", f"go={go}", "seed=0..1")
    cluster.wait(lambda: len(cluster.jobs()) == 2, 30, "the array is queued")
    os.kill(submission.pid, signal.SIGKILL)
    submission.communicate()
    sweep = site.json("sweeps")[0]["sweep"]
    site.until(lambda: Path(f"{go}.marks").exists(), "an element starts")
    go.write_text("")
    site.cli("wait", sweep)
    rows = site.json("sweeps", sweep)["elements"]
    assert [row["job_id"].partition("_")[2] for row in rows] == ["0", "1"]
    assert len(arrays(cluster, sweep)) == 1


def test_upkeep_settles_an_array_as_a_whole(site: Project, cluster: Cluster, tmp_path: Path) -> None:
    """sbatch lost the request and squeue is mute: SUBMITTING; later upkeep sends the array once, for all."""
    ready(site)
    go, mute, calls = tmp_path / "go", tmp_path / "mute", tmp_path / "calls"
    go.write_text("")
    mute.write_text("")
    lost = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
    asked = f'[ "$1" = --version ] || echo sbatch >> {calls}'
    fails = f'[ "$1" != --version ] && [ -e {mute} ] && {{ echo "{lost}" >&2; exit 1; }}'
    shim(site, tmp_path / "shims", "sbatch", f'{asked}\n{fails}\nexec $REAL "$@"')
    shim(site, tmp_path / "shims", "squeue", f'[ -e {mute} ] && exit 1\nexec $REAL "$@"')
    site.env.update({"HPCPOOLS_SLURM__SUBMIT_LOOKUPS": "[1]", "HPCPOOLS_SLURM__COMMAND_TIMEOUT": "1s"})
    done = site.cli("sweep", "sweeptasks:fit", f"go={go}", "seed=0..2", check=False)
    assert done.returncode == 69, done.stderr
    sweep = site.json("sweeps")[0]["sweep"]
    assert states(site, sweep) == ["SUBMITTING"] * 3
    site.env["HPCPOOLS_SLURM__COMMAND_TIMEOUT"] = "2s"
    site.cli("up", "redis")
    mute.unlink()
    settled = site.until(
        lambda: site.json("upkeep", "scan_failed_jobs")["settled"], "the runs are overdue", timeout=30
    )
    assert settled == {"submitted": 1}
    site.cli("wait", sweep)
    assert calls.read_text().split() == ["sbatch"] * 2
    assert len(arrays(cluster, sweep)) == 1
    assert Path(f"{go}.marks").read_text().count("start") == 3


def test_a_large_sweep_is_split_and_cancelled_as_one(site: Project, cluster: Cluster, tmp_path: Path) -> None:
    """Above the site's MaxArraySize: several arrays within one limit. What Slurm had no room for is retried
    later; `cancel` is one scancel for all."""
    ready(site)
    calls = counted(site, tmp_path / "shims", "scancel")
    full = tmp_path / "full"
    full.write_text("")
    words = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
    no_room = f'echo "sbatch: error: Batch job submission failed: {words}" >&2; exit 1'
    second = f'[ "$1" != --version ] && echo sbatch >> {calls} && [ $(grep -c sbatch {calls}) = 2 ]'
    shim(site, tmp_path / "shims", "sbatch", f'{second} && {{ {no_room}; }}\nexec $REAL "$@"')
    small = "s/^\\(MaxArraySize *=\\).*/\\1 3/"
    shim(site, tmp_path / "shims", "scontrol", f"$REAL \"$@\" | sed '{small}'")
    words = f"go={tmp_path / 'never'}"
    refused = site.cli("sweep", "sweeptasks:fit", words, "seed=0..4", "--max-parallel", "1", check=False)
    assert refused.returncode == 2
    assert "need 2 arrays" in refused.stderr
    partly = site.cli("sweep", "sweeptasks:fit", words, "seed=0..4", "--max-parallel", "2", check=False)
    assert partly.returncode == 4
    assert "3 of 5 runs are queued" in partly.stderr
    sweep = site.json("sweeps")[0]["sweep"]
    assert states(site, sweep)[3:] == ["FAILED", "FAILED"]
    assert len(site.json("sweeps", sweep, "--retry")["retried"]) == 2
    assert calls.read_text().split() == ["sbatch"] * 3
    jobs = [row["job_id"].partition("_") for row in site.json("sweeps", sweep)["elements"]]
    assert [index for _, _, index in jobs] == ["0", "1", "2", "0", "1"]
    assert len({parent for parent, _, _ in jobs}) == 2
    site.until(
        lambda: states(site, sweep).count("RUNNING") == 3, "one of the first array, both of the second"
    )
    site.cli("cancel", sweep)
    assert calls.read_text().split()[3:] == ["scancel"]
    site.until(lambda: site.json("sweeps")[0]["states"] == {"CANCELLED": 5}, "all are cancelled", timeout=90)


def test_a_requeued_element_is_the_same_run(site: Project, cluster: Cluster, tmp_path: Path) -> None:
    """scontrol requeue of one element: a second attempt of its run; the other elements do not notice."""
    ready(site)
    go = tmp_path / "go"
    sweep = site.cli("sweep", "sweeptasks:fit", f"go={go}", "seed=0..1").stdout.strip()
    site.until(lambda: states(site, sweep) == ["RUNNING"] * 2, "both run")
    first = site.json("sweeps", sweep)["elements"][0]
    cluster.run("scontrol", "requeue", first["job_id"])
    site.until(lambda: len(site.json("show", first["run"])["attempts"]) == 2, "a second attempt", timeout=90)
    go.write_text("")
    site.cli("wait", sweep)
    rows = site.json("show", sweep)["elements"]
    assert [(row["state"], row["attempts"]) for row in rows] == [("COMPLETED", 2), ("COMPLETED", 1)]
    assert site.json("show", first["run"])["sweep"] == sweep


def test_a_refused_sweep_leaves_nothing(site: Project, cluster: Cluster, tmp_path: Path) -> None:
    """A wrong element is named before anything is written; a refusal by Slurm leaves nothing behind."""
    ready(site)
    wrong = site.cli("sweep", "sweeptasks:fit", "go=x", "speed=1,2", check=False)
    assert wrong.returncode == 2
    assert "element 0" in wrong.stderr
    assert not site.root.exists()
    nowhere = ("--partition", "nosuch", "--gpus", "1")
    refused = site.cli("sweep", "sweeptasks:fit", "go=x", "seed=1,2", *nowhere, check=False)
    assert refused.returncode == 4
    assert not list(site.root.glob("hp-*"))
    assert site.json("sweeps") == []
    assert not list((site.root / ".live").iterdir())


def test_without_slurm_the_slot_runs_them(laptop: Project, tmp_path: Path) -> None:
    """Three elements, one at a time; the one that failed is retried."""
    ready(laptop)
    go, broken = tmp_path / "go", tmp_path / "broken"
    go.write_text("")
    broken.write_text("")
    words = ("sweeptasks:fit", f"go={go}", f"broken={broken}", "seed=0..2", "lr=0.5", "--gpus", "0")
    sweep = laptop.cli("sweep", *words).stdout.strip()
    assert laptop.cli("wait", sweep, check=False).returncode == 5
    assert most_at_once(Path(f"{go}.marks")) == 1
    broken.unlink()
    assert len(laptop.json("sweeps", sweep, "--retry")["retried"]) == 1
    laptop.cli("wait", sweep)
    rows = laptop.json("sweeps", sweep)["elements"]
    assert [(row["state"], row["attempts"]) for row in rows] == [("COMPLETED", n) for n in (1, 2, 1)]
    assert [row["result"]["result.acc"] for row in rows] == [1.0, 0.5, 0.0]


SCRIPT = """
import sys
import hpcpools
run = hpcpools.current_run()
run.log(step=1, loss=float(sys.argv[1]))
print(sys.argv[1:])
"""
API = """
import hpcpools, sweeptasks
from hpcpools.errors import UsageError
try:
    hpcpools.sweep(sweeptasks.fit, {"lr": "0.5"}, go="x")
except UsageError as error:
    print(error.message)
swept = hpcpools.sweep(sweeptasks.fit, {"seed": range(2), "lr": [0.5]}, go=GO, max_parallel=1, gpus=0)
print(swept.id, [run.token for run in swept.runs] == [row.run for row in swept.rows()])
print([value["acc"] for value in swept.results(timeout=60)])
"""


def test_a_command_and_a_call_from_python(laptop: Project, tmp_path: Path) -> None:
    """Each element has its own words, which no shell reads; `hpcpools.sweep` gives a handle."""
    ready(laptop)
    (laptop.folder / "train.py").write_text(SCRIPT)
    words = ("python", "train.py", "{loss}", "{text}")
    laptop.env["PATH"] = f"{Path(sys.executable).parent}:{laptop.env['PATH']}"
    sweep = laptop.cli("sweep", "loss=0.5,2", "text=$HOME; x", "--gpus", "0", "--", *words).stdout.strip()
    laptop.cli("wait", sweep)
    rows = laptop.json("result", sweep)
    assert [row["arguments"] for row in rows] == [{"text": "$HOME; x", "loss": loss} for loss in (0.5, 2)]
    assert "['2', '$HOME; x']" in laptop.cli("logs", rows[1]["run"]).stdout
    assert laptop.json("sweeps")[0]["what"] == "python train.py '{loss}' '{text}'"
    shown = laptop.json("sweeps", sweep, "--sort", "metric.loss", "--desc")["elements"]
    assert [row["metrics"]["loss"] for row in shown] == [2.0, 0.5]
    wrong = laptop.cli("sweep", "loss=1,2", "--", "python", "train.py", "{los}", check=False)
    assert (wrong.returncode, "los has no value" in wrong.stderr) == (2, True)
    go = tmp_path / "go"
    go.write_text("")
    done = subprocess.run(
        [sys.executable, "-c", API.replace("GO", repr(str(go)))],
        cwd=laptop.folder,
        env=laptop.env,
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    said, named, values = done.stdout.splitlines()
    assert said == "lr has one text, not several values"
    assert named.startswith("hs-")
    assert (named.endswith("True"), values) == (True, "[1.0, 0.5]")
    assert "COMPLETED" in laptop.cli("result", named.split()[0]).stdout
    assert laptop.cli("gc", check=False).returncode == 2
    assert laptop.json("gc", "--older-than", "1d")["runs"] == []
