"""The node entry itself with a fake pynvml on its path: exit code, evidence, the node's record, time."""

from __future__ import annotations

import json
import os
import subprocess
import time

import pytest

from hpcpools.gpu import processes
from hpcpools.runs import nodes
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.states import Cause
from hpcpools.schema import GpuChecks
from hpcpools.training import nodeenv
from tests.gpu import fake_nvml
from tests.gpu.entry import Node, only
from tests.gpu.test_checks import ROWS


def refused(node: Node, run: RunDirectory, check: str) -> None:
    """Exit 75, a marker with the cause, evidence, a record; and the user's code never ran."""
    attempt = only(run)
    assert node.exit_code == 75
    assert (attempt.outcome, attempt.exit_code, attempt.cause) == ("failed", 75, Cause.BAD_NODE)
    assert "node n2 is unfit" in attempt.error
    evidence = node.evidence(run)
    assert (evidence["verdict"], evidence["node"], evidence["job_id"]) == ("FAIL", "n2", "17")
    assert evidence["findings"][0]["check"] == check
    (record,) = nodes.read_events(node.root, "n2")
    assert (record.run, record.failed, record.check) == (run.token, True, check)
    assert nodes.excluded(node.root, run.token, time.time(), 4) == ("n2",)
    assert not node.ran.exists()


@pytest.mark.parametrize("check", [check for check, row in ROWS.items() if row[2] is not None])
def test_each_failing_check_refuses_the_node(node: Node, check: str) -> None:
    """Through the real child process and the real entry."""
    call, _, value = ROWS[check]
    if check == "GPU-4":
        if not processes.pids_match():
            pytest.skip("pids of this container are not the host's: GPU-4 is not judged here")
        value = [[1, 2 << 30]]  # init is live and not ours
    run = node.start({"on": 1, "set": {call: value}})
    refused(node, run, check)


@pytest.mark.parametrize("call", ["nvmlInit", *(row[0] for row in ROWS.values())])
def test_a_call_that_hangs_refuses_the_node(node: Node, call: str) -> None:
    """The evidence names the call; it costs the call's time limit, not the job."""
    run = node.start({"on": None if call == "nvmlInit" else 1, "hang": [call]})
    refused(node, run, "GPU-1")
    said = node.evidence(run)["findings"][0]["value"]
    assert "hung" in said and "did not return within 0.4 s" in said
    assert node.evidence(run)["seconds"] < 2.5


def test_many_slow_calls_are_bounded_too(node: Node) -> None:
    """The default times: a hanging call ends within 5 s, everything within 10 s."""
    run = node.start({"hang": ["nvmlDeviceGetTemperature"]}, GpuChecks())
    refused(node, run, "GPU-1")
    assert 4.5 < node.evidence(run)["seconds"] < 10


@pytest.mark.parametrize("check", [check for check, row in ROWS.items() if row[1] is not None])
def test_a_warning_lets_the_training_run(node: Node, check: str) -> None:
    """It stands in the evidence and in the log, and the node has no failure."""
    call, value, _ = ROWS[check]
    if check == "GPU-4":
        if not processes.pids_match():
            pytest.skip("pids of this container are not the host's: GPU-4 is not judged here")
        value = [[2**22 - 1, 1 << 20]]  # no such process
    run = node.start({"on": 1, "set": {call: value}})
    assert (node.exit_code, only(run).outcome, node.ran.exists()) == (0, "completed", True)
    assert node.evidence(run)["verdict"] == "WARN"
    assert f"{check} WARN" in (only(run).path / "log.err").read_text()
    assert all(not event.failed for event in nodes.read_events(node.root, "n2"))


@pytest.mark.parametrize("call", [row[0] for row in ROWS.values()])
def test_a_call_that_raises_lets_the_training_run(node: Node, call: str) -> None:
    """An error of a single call is a warning."""
    run = node.start({"on": 1, "raises": {call: fake_nvml.UNKNOWN}})
    assert (node.exit_code, only(run).outcome) == (0, "completed")
    assert node.evidence(run)["verdict"] == "WARN"


def test_a_healthy_node(node: Node) -> None:
    """OK before and after; no record."""
    run = node.start({})
    assert (node.exit_code, node.ran.exists()) == (0, True)
    assert [node.evidence(run, phase)["verdict"] for phase in ("preflight", "postflight")] == ["OK", "OK"]
    assert not (node.root / ".nodes").exists()


def test_no_library_no_checks(node: Node) -> None:
    """The lab's GPUs are no NVIDIA ones: a note, no failure; `require_nvml` makes it one."""
    profile = {"raises": {"nvmlInit": fake_nvml.LIBRARY_NOT_FOUND}}
    run = node.start(profile)
    assert node.exit_code == 0
    assert node.evidence(run)["verdict"] == "SKIPPED"
    assert "Library Not Found" in (only(run).path / "log.err").read_text()
    node.ran.unlink()
    refused(node, node.start(profile, GpuChecks(require_nvml=True)), "GPU-1")


def test_without_gpus_or_switched_off_nothing_is_asked(node: Node) -> None:
    """No child process, no file."""
    broken = {"raises": {"nvmlInit": fake_nvml.UNKNOWN}}
    for run in (node.start(broken, gpus=0), node.start(broken, GpuChecks(enabled=False))):
        assert only(run).outcome == "completed"
        assert not (only(run).path / "preflight.json").exists()


def test_what_a_training_leaves_behind_is_the_node_s_record(node: Node) -> None:
    """Post-flight finds it; the run stays completed, and the node has a failure of that run."""
    after = node.folder / "after.json"
    after.write_text(json.dumps({"on": 3, "set": {"nvmlDeviceGetTotalEccErrors": [0, 9]}}))
    run = node.start({}, then=f"cp {after} {node.folder}/fake/profile.json")
    assert (node.exit_code, only(run).outcome) == (0, "completed")
    assert node.evidence(run)["verdict"] == "OK"
    assert node.evidence(run, "postflight")["verdict"] == "FAIL"
    (record,) = nodes.read_events(node.root, "n2")
    assert (record.run, record.phase, record.check, record.gpu) == (run.token, "postflight", "GPU-6", "3")


def test_a_process_that_is_just_leaving_is_waited_for(node: Node) -> None:
    """GPU-4 is tried again after three seconds; we end nobody's process."""
    if not processes.pids_match():
        pytest.skip("pids of this container are not the host's: GPU-4 is not judged here")
    with subprocess.Popen(["sleep", "1.5"]) as leaving:
        listed = [[leaving.pid, 2 << 30]]
        tick = os.sysconf("SC_CLK_TCK")
        began = nodeenv.process_start(leaving.pid)
        while time.clock_gettime(time.CLOCK_BOOTTIME) * tick < began + 2:
            pass  # what starts in the same tick as the entry counts as ours
        run = node.start({"set": {"nvmlDeviceGetComputeRunningProcesses": listed}}, GpuChecks())
        assert leaving.wait() == 0
    assert (node.exit_code, only(run).outcome) == (0, "completed")
    assert node.evidence(run)["verdict"] == "WARN"
    assert "gone" in node.evidence(run)["findings"][0]["value"]


def test_a_workstation_has_no_other_node(node: Node) -> None:
    """On the local engine a failure is noted and refuses nothing."""
    run = node.start({"on": 1, "set": {"nvmlDeviceGetTotalEccErrors": [0, 1]}}, engine="local")
    assert (node.exit_code, only(run).outcome) == (0, "completed")
    assert node.evidence(run)["verdict"] == "FAIL"
    assert not (node.root / ".nodes").exists()
