"""`hpcpools explain` on the real cluster and the real short pool: cause, evidence, next action."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from tests.cluster.cluster import Cluster
from tests.project import Project

COUNTED = ("squeue", "sinfo", "sacct", "scontrol")


def counted(project: Project, folder: Path) -> Path:
    """Put wrappers around the real Slurm commands on the project's PATH; the file that lists their calls."""
    folder.mkdir()
    calls = folder / "calls"
    for name in COUNTED:
        real = shutil.which(name)
        (folder / name).write_text(f'#!/bin/sh\necho {name} >> {calls}\nexec {real} "$@"\n')
        (folder / name).chmod(0o755)
    project.env["PATH"] = f"{folder}:{os.environ['PATH']}"
    return calls


def explained(site: Project, token: str, wanted: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The explanation, once it is as ``wanted``; it is content with an answer of Slurm ten seconds old."""

    def found() -> dict[str, Any] | None:
        answer: dict[str, Any] = site.json("explain", token)
        return answer if wanted(answer) else None

    answer: dict[str, Any] = site.until(found, f"{token} explained so", timeout=40)
    return answer


def code(word: str) -> Callable[[dict[str, Any]], object]:
    """For :func:`explained`: the answer's code."""
    return lambda answer: answer["code"] == word


def evidence(words: str) -> Callable[[dict[str, Any]], object]:
    """For :func:`explained`: words that one of its facts holds."""
    return lambda answer: any(words in text for text in answer["evidence"])


def test_a_full_partition(site: Project, cluster: Cluster, tmp_path: Path) -> None:
    """Three nodes are taken: the next waits for Resources, the one after it for its Priority; two calls."""
    go = tmp_path / "go"
    busy = [site.train("usertasks:hold", f"until={go}") for _ in range(3)]
    site.until(lambda: [site.state(token) for token in busy] == ["RUNNING"] * 3, "all nodes are taken")
    first = site.train("usertasks:hold", f"until={go}")
    second = site.train("usertasks:hold", f"until={go}", "--time", "4m")
    site.until(lambda: set(cluster.jobs().values()) == {"RUNNING", "PENDING"}, "two wait")
    answer = explained(site, first, lambda answer: answer["code"] == "Resources" and answer["starts"])
    assert "Not enough free nodes" in answer["cause"]
    assert any("3 nodes allocated: n[1-3]" in text for text in answer["evidence"])
    assert any("your own running trainings: 3, with 12 GPUs" in text for text in answer["evidence"])
    assert answer["starts"]  # the end of what runs by its limit
    calls = counted(site, tmp_path / "counted")
    explained(site, second, code("Priority"))
    shown = site.cli("explain", second).stdout
    assert "1 of 1 other waiting jobs come first" in shown
    assert "shorter --time" in shown
    calls.unlink(missing_ok=True)
    site.cli("explain", second)
    assert len(calls.read_text().split()) <= 2
    go.write_text("")
    site.cli("wait", *busy, first, second)


def test_held_then_too_long_for_the_partition(site: Project, cluster: Cluster, tmp_path: Path) -> None:
    """A user's hold; then a partition whose limit was lowered after the job was queued."""
    go = tmp_path / "go"
    token = site.train("usertasks:hold", f"until={go}", "--partition", "cpu", "--gpus", "0", "--time", "3h")
    site.until_state(token, "RUNNING")
    waiting = site.train("usertasks:hold", f"until={go}", "--partition", "cpu", "--gpus", "0", "--time", "3h")
    job_id = site.json("show", waiting)["job_id"]
    cluster.run("scontrol", "uhold", job_id)  # as the user: root's hold is an administrator's
    answer = explained(site, waiting, code("JobHeldUser"))
    assert f"scontrol release {job_id}" in answer["action"]
    cluster.run("scontrol", "release", job_id)
    try:
        cluster.run("scontrol", "update", "partitionname=cpu", "MaxTime=1:00:00")
        answer = explained(site, waiting, code("PartitionTimeLimit"))
        assert "shorter --time" in answer["action"]
        assert any("1h at most, asked for 3h" in text for text in answer["evidence"])
        running = site.json("explain", token)
        assert running["code"] == "Running"
        assert any("last step 1" in text for text in running["evidence"])
    finally:
        cluster.run("scontrol", "update", "partitionname=cpu", "MaxTime=4:00:00")
        go.write_text("")
    site.cli("wait", token, waiting)
    assert site.json("explain", token)["cause"] == "It completed."


def test_drained_nodes_and_a_silent_controller(site: Project, cluster: Cluster, tmp_path: Path) -> None:
    """All nodes drained: the administrator's words are the evidence; later the controller freezes."""
    try:
        for node in cluster.nodes[:3]:
            cluster.run("scontrol", "update", f"nodename={node}", "state=drain", "reason=new disks")
        token = site.train("usertasks:hold", f"until={tmp_path / 'never'}")
        job_id = site.json("show", token)["job_id"]
        site.until(
            lambda: "DRAINED" in cluster.run("squeue", "-h", "-j", job_id, "-o", "%r").stdout, "the reason"
        )
        answer = explained(site, token, evidence("drained: n[1-3] (new disks)"))
        assert "node" in answer["cause"].lower()
        site.configure(_quick(site))
        with cluster.controller_paused():
            again = explained(site, token, evidence("does not answer"))
        assert again["code"] == answer["code"]
        assert again["as_of"] <= json.loads((site.root / ".poll.json").read_text())["at"] + 1
    finally:
        cluster.heal()
    site.cli("cancel", token)


def _quick(site: Project) -> str:
    """The same configuration, with less patience for a command."""
    text = (site.folder / "hpcpools.toml").read_text().partition("[training]")
    return (text[1] + text[2]).replace("[slurm]", '[slurm]\ncommand_timeout = "2s"')


def test_how_runs_ended(site: Project) -> None:
    """A training that failed: whose fault, what it said, what to do."""
    token = site.train("usertasks:fail")
    site.cli("wait", token, check=False)
    answer = site.json("explain", token)
    assert answer["cause"] == "The training itself failed."
    assert any("made of cheese" in text for text in answer["evidence"])
    assert f"hpcpools logs {token}" in answer["action"]


def test_short_jobs(laptop: Project, tmp_path: Path) -> None:
    """No worker; forged; suspended; done; failed; unknown; a slot that is not there."""
    laptop.cli("up", "redis")
    laptop.configure("[short]\nworkers = 1\n[services]\nautostart = false\n")
    first = laptop.json("enqueue", "usertasks:evaluate", "ckpt=a")["job"]
    assert laptop.json("explain", first)["code"] == "NoWorker"
    assert "hpcpools up" in laptop.json("explain", first)["action"]
    second = laptop.json("enqueue", "usertasks:evaluate", "ckpt=b")["job"]
    forged = laptop.json("enqueue", "usertasks:evaluate", "ckpt=c")["job"]
    (socket,) = Path(laptop.env["XDG_STATE_HOME"]).rglob("redis.sock")
    with redis.Redis(unix_socket_path=str(socket)) as connection:
        connection.hset(f"rq:job:{forged}", "timeout", "999999")  # by hand, after it was signed
        answer = laptop.json("explain", forged)
        assert answer["code"] == "Refused"
        assert "signature does not match" in answer["cause"]
        connection.set("rq:suspended", 1)
        laptop.cli("up", "short")
        explained(laptop, second, code("Suspended"))
        connection.delete("rq:suspended")
    laptop.cli("wait", first, second)
    assert laptop.json("explain", second)["code"] == "Finished"
    laptop.cli("wait", forged, check=False)
    assert laptop.json("explain", forged)["code"] == "Refused"
    bad = laptop.json("enqueue", "usertasks:broken")["job"]
    laptop.cli("wait", bad, check=False)
    answer = laptop.json("explain", bad)
    assert answer["code"] == "TaskFailed"
    assert any("a broken task" in text for text in answer["evidence"])
    assert laptop.cli("explain", "no-such-job", check=False).returncode == 3
    token = laptop.train("usertasks:learn")
    answer = laptop.json("explain", token)
    assert answer["code"] == "NoSlot"
    assert "hpcpools up slot" in answer["action"]
