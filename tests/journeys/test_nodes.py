"""A bad node of three on the real cluster: refused before the training, on record, avoided, released."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from tests.cluster.cluster import Cluster
from tests.gpu import fake_nvml
from tests.project import Project

SICK = "n2"


def attempt(site: Project, token: str) -> dict[str, Any]:
    """The run's one ended attempt and the evidence in its folder."""
    folder = site.root / token / "attempts" / "0.0"
    site.until((folder / "end.json").exists, f"{token} ends")
    found: dict[str, Any] = json.loads((folder / "end.json").read_text())
    found["evidence"] = json.loads((folder / "preflight.json").read_text())
    return found


def restarted(site: Project, token: str) -> bool:
    """Upkeep, once; True when the run is complete."""
    site.cli("upkeep", "scan_failed_jobs")
    return site.state(token) == "COMPLETED"


def test_a_bad_node_is_refused_and_on_record(site: Project, cluster: Cluster, tmp_path: Path) -> None:
    """Three trainings on three nodes, one of them sick: two run, one ends with 75 before its code starts.

    A second run fails there too: from then on all avoid the node, until it is released. Both runs complete
    on another node. The healthy ones are measured.
    """
    site.env |= {"HPCPOOLS_RESTARTS__FIRST_DELAY": "1", "HPCPOOLS_TELEMETRY__INTERVAL": "0.2"}
    broken = {"node": SICK, "on": 1, "set": {"nvmlDeviceGetTotalEccErrors": [0, 3]}}
    site.env["PYTHONPATH"] = str(fake_nvml.install(tmp_path / "fake", broken))
    assert site.json("nodes") == {"nodes": []}
    go, mark = tmp_path / "go", tmp_path / "marks"

    words = ("usertasks:hold", f"until={go}", f"mark={mark}")
    cluster.run("scontrol", "update", f"nodename={SICK}", "state=drain", "reason=not yet")
    healthy = [site.train(*words) for _ in range(2)]
    for token in healthy:
        site.until_state(token, "RUNNING")
    cluster.run("scontrol", "update", f"nodename={SICK}", "state=resume")
    first = site.train(*words)  # the sick node is the only one left
    record = site.until(lambda: site.json("nodes")["nodes"], "a record of the sick node")
    assert record[0]["runs"] == [first]
    ended = attempt(site, first)
    assert (ended["outcome"], ended["exit_code"], ended["cause"]) == ("failed", 75, "bad node")
    assert (ended["evidence"]["node"], ended["evidence"]["verdict"]) == (SICK, "FAIL")
    (found,) = ended["evidence"]["findings"]
    assert (found["check"], found["gpu"], found["uuid"]) == ("GPU-6", "1", "GPU-fake-1")
    job = ended["evidence"]["job_id"]
    cluster.wait(lambda: cluster.sacct(job, "ExitCode") == "75:0", what="Slurm has the exit code")

    second = site.train(*words)
    assert attempt(site, second)["cause"] == "bad node"
    (row,) = site.json("nodes")["nodes"]
    assert (row["node"], row["failures"], sorted(row["runs"])) == (SICK, 2, sorted([first, second]))
    assert (row["last_check"], row["last_value"]) == ("GPU-6", "3 uncorrected ECC errors")
    assert row["quarantined_until"] > row["last_at"]
    assert SICK in site.cli("nodes").stdout
    text = site.cli("nodes", "--report", SICK).stdout
    for word in (SICK, "GPU-fake-1", "GPU-6", "3 uncorrected ECC errors"):
        assert word in text

    go.write_text("")
    site.cli("wait", *healthy)
    assert {site.state(token) for token in healthy} == {"COMPLETED"}
    assert len({line.split()[0] for line in mark.read_text().splitlines()}) == 2  # the sick node ran nothing

    for token in healthy:
        use = site.json("show", token)["gpu"]
        assert use["held"] > 0
        assert use["used"] is not None
        assert len(use["samples"]) == cluster.gpus_per_node
    assert "GPU-hours held" in site.cli("show", healthy[0]).stdout

    site.cli("up", "redis")
    for token in (first, second):
        site.until(partial(restarted, site, token), f"{token} runs on another node")
        again = json.loads((site.root / token / "submissions" / "1.json").read_text())
        assert again["exclude"] == [SICK]
        nodes = [one["node"] for one in site.json("show", token)["attempts"]]
        assert nodes[0] == SICK
        assert SICK not in nodes[1:]

    assert site.cli("nodes", "--release", SICK, "--dry-run").stdout == f"would release {SICK}\n"
    assert len(site.json("nodes")["nodes"]) == 1
    site.cli("nodes", "--release", SICK)
    assert site.json("nodes") == {"nodes": []}
    assert site.cli("nodes", "--release", SICK, check=False).returncode == 3
    assert site.cli("nodes", "--report", "../x", check=False).returncode == 2


def test_nodes_without_an_nvidia_driver_are_used(site: Project) -> None:
    """The lab's GPUs are device files and no more: the checks are skipped, the evidence says why."""
    token = site.train("usertasks:learn")
    site.cli("wait", token)
    evidence = json.loads((site.root / token / "attempts" / "0.0" / "preflight.json").read_text())
    assert evidence["verdict"] == "SKIPPED" or evidence["reading"]["status"] == "read"
    assert site.state(token) == "COMPLETED"
