"""Trainings over several nodes of the real cluster: one group, one voice, one end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import Cluster
from tests.gpu import fake_nvml
from tests.project import Project

GROUP = '''
import socket, torch, torch.distributed as dist

@training(time="5m", launcher="elastic", gpus=1)
def group(run, steps=1, pace=0.0, crash_on="", mark=""):
    """Counts together: a step is done when all ranks did it."""
    dist.init_process_group("gloo")
    node = os.environ["SLURMD_NODENAME"]
    def tell(what):
        if mark:
            with open(mark, "ab", buffering=0) as file:
                line = f"{run.attempt.name} {run.rank} {node} {what} {time.time():.3f}\\n"
                file.write(line.encode())
    found = run.resume()
    step = found.step if found else 0
    tell(f"start {step}")
    print("resumed at", step, flush=True)
    while step < steps:
        time.sleep(pace)
        one = torch.ones(1)
        dist.all_reduce(one)
        step += 1
        if crash_on == node:
            raise RuntimeError(f"made of cheese on {node}")
        with run.checkpoint(step) as folder:
            (folder / "x").write_text(str(step))
        run.log(step=step, total=steps)
        tell(f"step {step}")
        if run.stop_together():
            tell(f"stop {step}")
            return None
    everyone = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, [node, run.rank, run.local_rank, run.world_size])
    dist.destroy_process_group()
    return {"sum": one.item(), "everyone": everyone, "first": found.step if found else 0}
'''


@pytest.fixture
def groups(site: Project) -> Project:
    """The site with a training for groups of nodes."""
    with (site.folder / "usertasks.py").open("a") as file:
        file.write(GROUP)
    return site


def attempts_in(mark: Path) -> dict[str, list[tuple[int, str, str, int, float]]]:
    """What the ranks wrote, by attempt: (rank, node, what, step, when)."""
    found: dict[str, list[tuple[int, str, str, int, float]]] = {}
    for line in mark.read_text().splitlines():
        attempt, rank, node, what, step, at = line.split()
        found.setdefault(attempt, []).append((int(rank), node, what, int(step), float(at)))
    return found


def step_of(site: Project, token: str) -> int:
    """The newest step."""
    return int(site.json("show", token)["step"] or 0)


def test_three_nodes_are_one_group(groups: Project, cluster: Cluster, tmp_path: Path) -> None:
    """Warned by USR2, all ranks save and leave at one step; only the first node asks for the requeue.

    The second attempt goes on from there. Each node has its log, `logs` names them all.
    """
    mark = tmp_path / "mark"
    token = groups.train("usertasks:group", "--nodes", "3", "steps=15", "pace=0.2", f"mark={mark}")
    groups.until(lambda: step_of(groups, token) > 2, "some steps")
    cluster.run("scancel", "--signal=USR2", groups.json("show", token)["job_id"])
    groups.cli("wait", token, timeout=120)
    shown = groups.json("show", token)
    assert (shown["state"], shown["step"], len(shown["attempts"])) == ("COMPLETED", 15, 2)
    assert (shown["nodes"], shown["node"]) == (3, "n[1-3]")
    first, second = attempts_in(mark).values()
    stops = [step for _, _, what, step, _ in first if what == "stop"]
    assert len(stops) == 3
    assert len(set(stops)) == 1
    assert {step for _, _, what, step, _ in second if what == "start"} == set(stops)
    result = groups.json("result", token)
    assert (result["sum"], result["first"]) == (3, stops[0])
    assert [rank for _, rank, *_ in result["everyone"]] == [0, 1, 2]
    assert {node for node, *_ in result["everyone"]} == {"n1", "n2", "n3"}
    assert {tuple(rest) for _, _, *rest in result["everyone"]} == {(0, 3)}  # local rank, world size
    text = groups.cli("logs", token).stdout
    for node in ("n1", "n2", "n3"):
        assert f"==> {node} <==" in text
    assert f"resumed at {stops[0]}" in groups.cli("logs", token, "--node", "n2").stdout
    assert groups.cli("logs", token, "--node", "n9", check=False).returncode == 3
    met = json.loads((groups.root / token / "attempts" / "0.0" / "rendezvous.json").read_text())
    assert met["job_id"] == shown["job_id"]


def test_a_lost_node_starts_the_whole_group_again(groups: Project, cluster: Cluster, tmp_path: Path) -> None:
    """Slurm requeues the job as one; the second group starts after the first is gone, from its checkpoint."""
    mark = tmp_path / "mark"
    token = groups.train("usertasks:group", "--nodes", "2", "steps=25", "pace=0.2", f"mark={mark}")
    groups.until(lambda: step_of(groups, token) > 5, "some steps")
    lost = "n2"
    cluster.kill_node(lost)
    groups.until(lambda: len(groups.json("show", token)["attempts"]) == 2, "a second attempt", timeout=120)
    groups.cli("wait", token, timeout=120)
    shown = groups.json("show", token)
    assert (shown["state"], shown["step"]) == ("COMPLETED", 25)
    assert shown["nodes"] == 2
    first, second = attempts_in(mark).values()
    assert {node for _, node, *_ in first} == {"n1", lost}
    assert {rank for rank, *_ in first} == {rank for rank, *_ in second} == {0, 1}
    assert lost not in {node for _, node, *_ in second}
    assert max(at for *_, at in first) < min(at for *_, at in second)
    resumed = {step for _, _, what, step, _ in second if what == "start"}
    assert len(resumed) == 1
    assert resumed.pop() >= 5


def test_a_failing_rank_is_named(groups: Project) -> None:
    """Its traceback is the run's, not the broken connections of the others; all nodes end at once."""
    token = groups.train("usertasks:group", "--nodes", "2", "--gpus", "2", "crash_on=n2")
    assert groups.cli("wait", token, check=False).returncode == 5
    shown = groups.json("show", token)
    assert (shown["state"], shown["cause"], shown["exit_code"]) == ("FAILED", "user error", 1)
    assert "made of cheese on n2" in shown["reason"]
    log = groups.cli("logs", token, "--node", "n2").stdout
    assert "made of cheese on n2" in log
    assert log.count("resumed at") == 2  # one process per GPU


def test_one_unfit_node_ends_the_attempt(groups: Project, tmp_path: Path) -> None:
    """Before any training starts, named; the others do not wait for a rendezvous."""
    broken = {"node": "n3", "on": 0, "set": {"nvmlDeviceGetTotalEccErrors": [0, 3]}}
    groups.env["PYTHONPATH"] = str(fake_nvml.install(tmp_path / "fake", broken))
    mark = tmp_path / "mark"
    token = groups.train("usertasks:group", "--nodes", "3", f"mark={mark}", "--restart", "bad_node=0")
    end = groups.root / token / "attempts" / "0.0" / "end.json"
    groups.until(end.exists, "it ends")
    ended: dict[str, Any] = json.loads(end.read_text())
    assert (ended["outcome"], ended["exit_code"], ended["cause"]) == ("failed", 75, "bad node")
    assert "node n3 is unfit" in ended["error"]
    assert [row["node"] for row in groups.json("nodes")["nodes"]] == ["n3"]
    assert not mark.exists()
    assert groups.json("show", token)["cause"] == "bad node"


def test_a_command_once_on_each_node(groups: Project) -> None:
    """--launcher single: the variables of torch's env:// rendezvous, one process on each node.

    The first node ends at once and waits for the second.
    """
    words = "$NODE_RANK $RANK $WORLD_SIZE $LOCAL_RANK $MASTER_ADDR:$MASTER_PORT"
    token = groups.train(
        "--nodes", "2", "--gpus", "1", "--", "sh", "-c", f"sleep $NODE_RANK; echo $SLURMD_NODENAME {words}"
    )
    groups.cli("wait", token)
    lines = [line.split() for line in groups.cli("logs", token).stdout.splitlines() if line.startswith("n")]
    assert [line[:5] for line in lines] == [["n1", "0", "0", "2", "0"], ["n2", "1", "1", "2", "0"]]
    assert lines[0][5] == lines[1][5] != ":"


def test_a_node_that_would_wait_for_ever_is_ended(groups: Project) -> None:
    """One node's command fails while the other's hangs, as NCCL does: the run ends with the former's code."""
    command = ("sh", "-c", "test $NODE_RANK = 1 && exit 3; exec sleep 3600")
    token = groups.train("--nodes", "2", "--gpus", "1", "--", *command)
    groups.cli("wait", token, check=False, timeout=60)
    shown = groups.json("show", token)
    assert (shown["state"], shown["cause"], shown["exit_code"]) == ("FAILED", "user error", 3)
    assert shown["reason"] == "node n2: exit code 3"


def test_what_no_site_can_give_is_refused(groups: Project) -> None:
    """More nodes than there are; several on one machine. The script asks for whole nodes."""
    groups.configure(
        '[training]\npartition = "gpu"\n[training.partitions.gpu]\ngpus_per_node = 4\nnodes = 3\n'
    )
    told = groups.cli("train", "usertasks:group", "--nodes", "4", check=False)
    assert told.returncode == 2
    assert "partition gpu has 3" in told.stderr
    told = groups.cli("train", "usertasks:group", "--nodes", "2", "--on", "local", check=False)
    assert told.returncode == 2
    assert "one machine is one node" in told.stderr
    script = groups.cli("train", "usertasks:group", "--nodes", "3", "--dry-run").stdout
    for line in ("--nodes=3", "--ntasks-per-node=1", "--exclusive", "--requeue"):
        assert f"#SBATCH {line}\n" in script
    assert "--kill-on-bad-exit=0" in script
    assert "to start at" in groups.cli("train", "usertasks:group", "--nodes", "3", "--check").stdout
