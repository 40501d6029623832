"""The lane on a real cluster: an overflow with a killed node, a GPU beside exclusive trainings, kill -9."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
from collections import Counter
from pathlib import Path

from redis import Redis

from tests.cluster.cluster import Cluster
from tests.lane.conftest import TASKS, in_python, log_of, settings
from tests.lane.test_node import until
from tests.project import Project

MANY = """
import hpcpools
for number in range({count}):
    hpcpools.enqueue("usertasks:work", {{"log": {log!r}, "number": number}}, job_id=f"w-{{number}}")
"""
RESULTS = """
import json, hpcpools
from hpcpools.short.enqueue import fetch
from hpcpools.config import load
config = load()
jobs = [fetch(config, f"w-{{number}}") for number in range({count})]
print(json.dumps([[job.state, job.result(1) if job.state == "finished" else None] for job in jobs]))
"""


def lines(log: Path) -> list[list[str]]:
    """The words of each line that tasks wrote, in order."""
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def counted(log: Path, word: str) -> Counter[str]:
    """How often each task wrote ``word``."""
    return Counter(words[1] for words in lines(log) if words[0] == word)


def test_an_overflow_survives_a_killed_node(lane: Project, cluster: Cluster, tmp_path: Path) -> None:
    """200 tasks are too many for one worker; Slurm helps, a node dies: one result each, never two copies."""
    log, count = tmp_path / "marks", 200
    lane.configure(settings(cluster) + "[short]\nworkers = 1\n")
    lane.cli("up", "short")
    in_python(lane, MANY.format(count=count, log=str(log)))
    lane.until(lambda: sum(counted(log, "end").values()) > 40, "some are done")
    cluster.kill_node("n4")
    ended = sum(counted(log, "end").values())
    assert ended < count, "the node was killed too late to prove anything"
    # What the controller would find out by itself, some time between ten seconds and a minute later.
    cluster.run("scontrol", "update", "nodename=n4", "state=down", "reason=killed")
    cluster.wait(lambda: "RUNNING" not in cluster.jobs().values(), 60, "Slurm gives the node up")
    cluster.start_node("n4")
    lane.until(lambda: len(counted(log, "end")) == count, "all are done", timeout=120)
    lane.until(
        lambda: lane.json("queues")[1]["running"] == 0 and not lane.json("status")["lane"],
        "all ends are taken in",
    )
    results = json.loads(in_python(lane, RESULTS.format(count=count)))
    assert results == [["finished", number] for number in range(count)]
    assert counted(log, "overlap") == {}
    again = {number for number, times in counted(log, "end").items() if times > 1}
    assert len(again) <= 4, "an end marker was not believed"
    assert "NODE_FAIL" in log_of(lane)


def test_a_gpu_evaluation_beside_exclusive_trainings(lane: Project, cluster: Cluster, tmp_path: Path) -> None:
    """It shares a node and sees one GPU; a training that needs the node whole waits until it has ended."""
    log, go, held = tmp_path / "marks", tmp_path / "go", tmp_path / "held"
    trainings = [lane.train("usertasks:hold", f"until={held}") for _ in range(2)]
    for token in trainings:
        lane.until_state(token, "RUNNING")
    job = lane.cli("enqueue", "usertasks:gpu_evaluation", f"log={log}", f"go={go}").stdout.strip()
    lane.until(lambda: lines(log), "the evaluation runs")
    third = lane.train("usertasks:hold", f"until={held}")
    shown = lane.json("status")["lane"]
    assert [row["tasks"] for row in shown] == [1]
    slurm_job = shown[0]["job_id"]
    assert "OverSubscribe=OK" in cluster.run("scontrol", "show", "job", slurm_job).stdout
    why = lane.json("explain", job)
    assert (why["code"], why["state"]) == ("Running", "started")
    lane.until(lambda: lane.json("explain", third)["code"] in ("Resources", "Priority"), "the third waits")
    assert lane.state(third) == "PENDING"
    go.write_text("")
    seen = json.loads(lane.cli("result", job, "--wait", "--timeout", "60s").stdout)
    assert seen == {"devices": seen["devices"], "cpus": "1", "libraries": [], "node": seen["node"]}
    assert len(seen["devices"].split(",")) == 1 and seen["devices"] != ""
    told = [
        json.loads(line) for line in lane.cli("logs", "lane", "--about", job, "--json").stdout.splitlines()
    ]
    assert [(each["action"], each["slurm_job"]) for each in told] == [("end", slurm_job)]
    lane.until_state(third, "RUNNING")
    assert lane.json("show", third)["attempts"][0]["node"] == seen["node"]
    held.write_text("")
    lane.cli("wait", *trainings, third)


def test_each_checkpoint_is_evaluated_on_a_gpu(lane: Project, cluster: Cluster) -> None:
    """Continuous evaluation by a task that needs a GPU: what it calls decides what the lane asks for."""
    pair = '\n[continuous_evaluation]\n"usertasks:learn" = "usertasks:gpu_score"\n'
    lane.configure(settings(cluster) + pair)
    lane.cli("upkeep", "advance_pipelines")  # evaluated is what ended since the first look
    lane.cli("wait", token := lane.train("usertasks:learn", "steps=1", "--gpus", "1"))
    lane.cli("upkeep", "advance_pipelines")
    done = lane.until(
        lambda: list((lane.root / token / "evaluations").glob("*.done.json")), "it is evaluated"
    )
    seen = json.loads(done[0].read_text())
    name, devices = seen["result"]
    assert (seen["ended"], name, len(devices.split(","))) == ("completed", "step-000000001", 1)


def test_a_killed_lane_goes_on(lane: Project, cluster: Cluster, tmp_path: Path) -> None:
    """kill -9 of the lane: nothing is lost or run twice; what runs can be stopped, what waits explained."""
    log, go = tmp_path / "marks", tmp_path / "go"
    words = ("enqueue", "usertasks:until", f"log={log}", f"go={go}")
    jobs = []
    for number in range(2):
        jobs.append(lane.cli(*words, f"number={number}").stdout.strip())
        lane.until(lambda: len(lines(log)) == len(jobs), "it runs")
    cluster.run("scontrol", "update", "partitionname=cpu", "state=down")
    try:
        late = lane.cli(*words, "number=9").stdout.strip()
        lane.until(lambda: lane.json("explain", late)["code"] == "PartitionDown", "the third is explained")
        os.kill(pid_of_lane(lane), signal.SIGKILL)
        lane.until(lambda: '"adopt"' in log_of(lane), "a new lane takes up the batches")
        assert lane.cli("cancel", late).stdout.split()[-1] == "stopped"
    finally:
        cluster.run("scontrol", "update", "partitionname=cpu", "state=up")
    assert lane.cli("cancel", jobs[1]).stdout.split()[-1] == "stopped"
    go.write_text("")
    assert lane.cli("result", jobs[0], "--wait", "--timeout", "60s").stdout.strip() == "0"
    assert (counted(log, "start"), counted(log, "end")) == ({"0": 1, "1": 1}, {"0": 1})
    lane.until(lambda: not lane.json("status")["lane"], "the batches are closed")


def test_another_login_node_takes_up_what_a_dead_lane_left(
    site: Project, cluster: Cluster, tmp_path: Path
) -> None:
    """Two login nodes with one Redis: the lane of the first is gone, that of the second stops and finishes.

    Nothing runs twice, and the first, once it is back, leaves it alone.
    """
    log, go, (redis, server) = tmp_path / "marks", tmp_path / "go", shared_redis(tmp_path)
    tasks = site.folder / "usertasks.py"
    tasks.write_text(tasks.read_text() + TASKS)
    site.configure(settings(cluster))
    site.env |= {
        "HPCPOOLS_REDIS__URL": f"unix://{redis}",
        "HPCPOOLS_REDIS__KEY_FILE": str(tmp_path / "pool.key"),
    }
    other = copy.copy(site)
    other.env = {**site.env, "XDG_STATE_HOME": f"{site.env['XDG_STATE_HOME']}/o"}  # a socket's path is short
    try:
        site.cli("up", "lane")
        words = ("enqueue", "usertasks:until", f"log={log}", f"go={go}")
        jobs = [site.cli(*words, f"number={number}").stdout.strip() for number in range(2)]
        site.until(lambda: len(lines(log)) == 1, "the first runs")
        site.cli("down")
        with Redis(unix_socket_path=str(redis)) as client:  # as after its time to live
            [name] = [key for key in client.smembers("rq:workers") if b"lane-" in key]
            assert client.delete(name) == 1
        other.cli("up", "lane")
        other.until(lambda: '"inherit"' in log_of(other), "the second has taken it up")
        running = jobs[int(lines(log)[0][1])]
        assert other.cli("cancel", running).stdout.split()[-1] == "stopped"
        site.cli("up", "lane")
        go.write_text("")
        [left] = set(jobs) - {running}
        number = str(jobs.index(left))
        assert other.cli("result", left, "--wait", "--timeout", "60s").stdout.strip() == number
        assert counted(log, "end") == {number: 1}
        assert counted(log, "start") == {"0": 1, "1": 1}
        other.until(lambda: not other.json("status")["lane"], "the batches are closed")
        assert '"adopt"' not in log_of(site)
    finally:
        site.cli("down", check=False)
        other.cli("down", check=False)
        server.terminate()
        server.wait()


def shared_redis(folder: Path) -> tuple[Path, subprocess.Popen[bytes]]:
    """A Redis of its own, and a key for both login nodes: its socket, its process."""
    key, socket = folder / "pool.key", folder / "r.sock"
    key.touch(0o600)
    key.write_text("ab" * 32 + "\n")
    program = shutil.which("redis-server")
    assert program
    options = ("--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "600", "--save", "")
    server = subprocess.Popen([program, *options, "--dir", str(folder)], stdout=subprocess.DEVNULL)
    until(socket.exists, "Redis listens")
    return socket, server


def test_preempted_tasks_run_again(lane: Project, cluster: Cluster, tmp_path: Path) -> None:
    """Trainings take the nodes back: what ran goes back to its queue at once, uncounted, and ends once."""
    log, go, held = tmp_path / "marks", tmp_path / "go", tmp_path / "held"
    lane.configure(settings(cluster).replace('partition = "cpu"', 'partition = "low"'))
    lane.cli("restart", "lane")
    words = ("enqueue", "usertasks:until", f"log={log}", f"go={go}", "number=1")
    job = lane.cli(*words).stdout.strip()
    lane.until(lambda: lines(log), "it runs")
    trainings = [lane.train("usertasks:hold", f"until={held}") for _ in range(3)]
    lane.until(lambda: '"put-back"' in log_of(lane), "it is put back")
    shown = lane.json("explain", job)
    assert not any("ended under it" in text for text in shown["evidence"])
    held.write_text("")
    go.write_text("")
    assert lane.cli("result", job, "--wait", "--timeout", "60s").stdout.strip() == "1"
    assert (counted(log, "start"), counted(log, "end")) == ({"1": 2}, {"1": 1})
    lane.cli("wait", *trainings)


def test_an_unclear_sbatch_is_found_not_repeated(lane: Project, cluster: Cluster, tmp_path: Path) -> None:
    """The controller hangs while the batch is submitted: its job is found by its token and runs once."""
    log, go = tmp_path / "marks", tmp_path / "go"
    go.write_text("")
    cluster.pause_controller()
    job = lane.cli("enqueue", "usertasks:until", f"log={log}", f"go={go}", "number=1").stdout.strip()
    lane.until(lambda: '"submit-unclear"' in log_of(lane), "sbatch gives no answer")
    cluster.resume_controller()
    assert lane.cli("result", job, "--wait", "--timeout", "90s").stdout.strip() == "1"
    lane.until(lambda: not lane.json("status")["lane"], "the batch is closed")
    assert counted(log, "start") == {"1": 1}


def pid_of_lane(project: Project) -> int:
    """The lane's process."""
    return int(next(row["pid"] for row in project.json("ps") if row["name"] == "lane"))


def test_without_a_lane_it_is_refused(laptop: Project) -> None:
    """A task that needs a GPU, and no lane: refused with the reason, nothing is written or started."""
    tasks = laptop.folder / "usertasks.py"
    tasks.write_text(tasks.read_text() + "\n@task(gpus=1, mem='8G')\ndef big():\n    return 1\n")
    for words in (["usertasks:big"], ["usertasks:evaluate", "--queue", "slurm"]):
        done = laptop.cli("enqueue", *words, check=False)
        assert done.returncode == 4
        assert "no Slurm lane is configured" in done.stderr
    assert "gpus=1, mem=8192M" in laptop.cli("enqueue", "usertasks:big", check=False).stderr
    assert all(row["state"] == "stopped" for row in laptop.json("ps"))
    laptop.configure('[routing]\n"usertasks:big" = "evaluation"\n')  # this machine can run it, says its owner
    assert laptop.cli("enqueue", "usertasks:big", "--dry-run").stdout.split()[-1] == "evaluation"
