"""The table of the GPU checks: every row by a fake NVML, and no failure on healthy machines."""

from __future__ import annotations

import random
from typing import Any

import pytest

from hpcpools.gpu import checks
from hpcpools.gpu.checks import Finding, Level
from hpcpools.gpu.processes import Whose
from hpcpools.gpu.reading import NodeReading, take
from hpcpools.schema import GpuChecks
from tests.gpu.fake_nvml import FUNCTION_NOT_FOUND, LIBRARY_NOT_FOUND, LOST, NOT_SUPPORTED, UNKNOWN, FakeNvml

LIMITS = GpuChecks()
MIB = 1 << 20

# check → the call it rests on, an answer that warns (None: it never does), an answer that fails
ROWS: dict[str, tuple[str, Any, Any]] = {
    "GPU-2": ("nvmlDeviceGetFieldValues", 5, 1),
    "GPU-3": ("nvmlDeviceGetMigMode", None, 1),
    "GPU-4": ("nvmlDeviceGetComputeRunningProcesses", [[1002, MIB]], [[1001, 2048 * MIB]]),
    "GPU-5": ("nvmlDeviceGetMemoryInfo", 16 * MIB, 1025 * MIB),
    "GPU-6": ("nvmlDeviceGetTotalEccErrors", [50_000_001, 0], [0, 1]),
    "GPU-7": ("nvmlDeviceGetRemappedRows", [0, 0, 1, 0], [0, 0, 0, 1]),
    "GPU-8": ("nvmlDeviceGetRetiredPagesPendingStatus", 1, None),
    "GPU-10": ("nvmlDeviceGetCurrentClocksEventReasons", 0x20, 0x40),
    "GPU-11": ("nvmlDeviceGetTemperature", 61, 85),
    "GPU-13": ("nvmlDeviceGetNvLinkState", None, 3),
}
MORE_FAILS = [
    *(("GPU-2", "nvmlDeviceGetFieldValues", action) for action in (2, 3, 4, 6, 7)),
    ("GPU-8", "nvmlDeviceGetRetiredPages", 6),  # of each of the two causes: 12
    ("GPU-10", "nvmlDeviceGetCurrentClocksEventReasons", 0x80),
    ("GPU-13", "nvmlDeviceGetNvLinkState", 0),
    ("GPU-13", "nvmlDeviceGetGpuFabricInfo", [2, 0]),
    ("GPU-13", "nvmlDeviceGetGpuFabricInfo", [3, 999]),
]
MORE_WARNS = [("GPU-3", "nvmlDeviceGetEccMode", 0), ("GPU-3", "nvmlDeviceGetPersistenceMode", 0)]


def whose(pid: int) -> Whose:
    """1001 is somebody else's, 1002 is gone, the rest are ours."""
    answers: dict[int, Whose] = {1001: "foreign", 1002: "gone", 1003: "unknown"}
    return answers.get(pid, "ours")


def reading(granted: tuple[str, ...] = ("0", "1", "2", "3"), **profile: Any) -> NodeReading:
    """What the fake of that profile says."""
    return take(FakeNvml(profile), granted, whose)


def judged(limits: GpuChecks = LIMITS, expected: int = 4, **profile: Any) -> tuple[Finding, ...]:
    """The findings on a node of that profile."""
    return checks.judge(reading(**profile), limits, expected)


def seen(found: tuple[Finding, ...]) -> list[tuple[str, str, str]]:
    """Check, level and GPU of each finding."""
    return [(one.check, one.level.value, one.gpu) for one in found]


def test_a_healthy_node_has_no_finding() -> None:
    """And NVML is closed again."""
    nvml = FakeNvml()
    assert checks.judge(take(nvml, (), whose), LIMITS, 4) == ()
    assert nvml.open == 0


@pytest.mark.parametrize("check", [check for check, row in ROWS.items() if row[1] is not None])
def test_warn(check: str) -> None:
    """A warning names the GPU and does not refuse the node."""
    found = judged(on=2, set={ROWS[check][0]: ROWS[check][1]})
    assert seen(found) == [(check, "WARN", "2")]
    assert found[0].uuid == "GPU-fake-2"
    assert not checks.failed(found)


@pytest.mark.parametrize(("check", "call", "value"), MORE_WARNS)
def test_more_warnings(check: str, call: str, value: Any) -> None:
    """The other conditions of a row."""
    assert seen(judged(on=1, set={call: value})) == [(check, "WARN", "1")]


@pytest.mark.parametrize("check", [check for check, row in ROWS.items() if row[2] is not None])
def test_fail(check: str) -> None:
    """A failure names the GPU and refuses the node."""
    found = judged(on=2, set={ROWS[check][0]: ROWS[check][2]})
    assert seen(found) == [(check, "FAIL", "2")]
    assert checks.failed(found)


@pytest.mark.parametrize(("check", "call", "value"), MORE_FAILS)
def test_more_failures(check: str, call: str, value: Any) -> None:
    """The other conditions of a row."""
    assert seen(judged(on=1, set={call: value})) == [(check, "FAIL", "1")]


@pytest.mark.parametrize("check", sorted(ROWS))
@pytest.mark.parametrize("number", [NOT_SUPPORTED, FUNCTION_NOT_FOUND, 4])
def test_what_the_driver_does_not_tell_is_no_finding(check: str, number: int) -> None:
    """Not supported, an old driver, no permission: the check is left out."""
    assert judged(raises={ROWS[check][0]: number}) == ()


@pytest.mark.parametrize("check", sorted(ROWS))
def test_a_call_that_raises_is_a_warning(check: str) -> None:
    """An unknown error of one call says little; the evidence keeps it."""
    found = judged(on=3, raises={ROWS[check][0]: UNKNOWN})
    assert seen(found) == [(check, "WARN", "3")]
    assert "E999" in found[0].value


@pytest.mark.parametrize("check", sorted(ROWS))
def test_a_lost_gpu_fails_whatever_call_says_so(check: str) -> None:
    """GPU-1: "GPU is lost" may turn up at any call."""
    found = judged(on=3, raises={ROWS[check][0]: LOST})
    assert seen(found) == [("GPU-1", "FAIL", "3")]
    assert "GPU is lost" in found[0].value


@pytest.mark.parametrize("call", ["nvmlInit", "nvmlDeviceGetCount"])
def test_nvml_that_does_not_start_fails(call: str) -> None:
    """GPU-1, for the whole node."""
    assert seen(judged(raises={call: UNKNOWN})) == [("GPU-1", "FAIL", "")]


def test_a_granted_gpu_that_is_not_there_fails() -> None:
    """GPU-1: NVML shows three of four; and the same without Slurm's list."""
    assert seen(judged(gpus=3)) == [("GPU-1", "FAIL", "3")]
    assert seen(checks.judge(reading((), gpus=3), LIMITS, 4)) == [("GPU-1", "FAIL", "")]


def test_one_gpu_granted_twice_fails() -> None:
    """GPU-3: an index and the uuid of the same GPU."""
    found = checks.judge(reading(("0", "GPU-fake-0")), LIMITS, 2)
    assert seen(found) == [("GPU-3", "FAIL", "")]


def test_no_library_is_no_failure_unless_asked() -> None:
    """A node whose GPUs are no NVIDIA ones, or fake ones: nothing to check; `require_nvml` fails it."""
    missing: dict[str, Any] = {"raises": {"nvmlInit": LIBRARY_NOT_FOUND}}
    assert judged(**missing) == ()
    assert seen(judged(GpuChecks(require_nvml=True), **missing)) == [("GPU-1", "FAIL", "")]
    assert checks.judge(take(None, (), whose), LIMITS, 4) == ()


@pytest.mark.parametrize("check", ["GPU-7", "GPU-8"])
def test_strict_refuses_what_is_pending(check: str) -> None:
    """NVIDIA lets new work start on a GPU with a pending remap; a strict site does not."""
    found = judged(GpuChecks(strict=True), on=0, set={ROWS[check][0]: ROWS[check][1]})
    assert seen(found) == [(check, "FAIL", "0")]


@pytest.mark.parametrize("check", [check for check, row in ROWS.items() if row[2] is not None])
def test_a_site_can_leave_a_check_out(check: str) -> None:
    """``skip`` names it."""
    assert judged(GpuChecks(skip=(check,)), on=0, set={ROWS[check][0]: ROWS[check][2]}) == ()


def test_peer_to_peer_drain_concerns_several_gpus() -> None:
    """GPU-2: with one GPU it is a warning."""
    one = reading(("0",), set={"nvmlDeviceGetFieldValues": 3})
    assert seen(checks.judge(one, LIMITS, 1)) == [("GPU-2", "WARN", "0")]


def test_unbridged_boards_are_no_failure() -> None:
    """GPU-13: where half of the GPUs of a model have no bridge, or none has, nothing is broken."""
    assert judged(set={"nvmlDeviceGetNvLinkState": 0, "nvmlDeviceGetGpuFabricInfo": [0, 0]}) == ()
    pair = reading(("0", "1"), on=1, set={"nvmlDeviceGetNvLinkState": 0})
    assert seen(checks.judge(pair, LIMITS, 2)) == [("GPU-13", "WARN", "1")]
    alone = reading(("1",), on=1, set={"nvmlDeviceGetNvLinkState": 0, "nvmlDeviceGetGpuFabricInfo": [1, 0]})
    assert checks.judge(alone, LIMITS, 1) == ()


def test_an_older_driver_has_the_older_name() -> None:
    """GPU-10: the clock reasons were called throttle reasons."""
    found = judged(
        on=0,
        raises={"nvmlDeviceGetCurrentClocksEventReasons": FUNCTION_NOT_FOUND},
        set={"nvmlDeviceGetCurrentClocksThrottleReasons": 0x40},
    )
    assert seen(found) == [("GPU-10", "FAIL", "0")]


def test_a_slice_of_a_gpu_has_neighbours() -> None:
    """A MIG grant: MIG is expected; processes and memory of the whole GPU are others' business."""
    busy = {
        "nvmlDeviceGetMigMode": 1,
        "nvmlDeviceGetComputeRunningProcesses": [[1001, 5 * MIB]],
        "nvmlDeviceGetMemoryInfo": 60_000 * MIB,
    }
    slices = reading(("MIG-fake-0", "MIG-fake-0"), set=busy)
    assert checks.judge(slices, LIMITS, 2) == ()
    broken = reading(("MIG-fake-0",), set={**busy, "nvmlDeviceGetTotalEccErrors": [0, 2]})
    assert seen(checks.judge(broken, LIMITS, 1)) == [("GPU-6", "FAIL", "MIG-fake-0")]


def test_pids_of_a_container_are_not_judged() -> None:
    """NVML lists the host's pids, which mean nothing in a pid namespace; the memory still speaks."""
    listed: dict[str, Any] = {"nvmlDeviceGetComputeRunningProcesses": [[1003, 5 * MIB]]}
    assert judged(set=listed) == ()
    listed["nvmlDeviceGetMemoryInfo"] = 2048 * MIB
    assert seen(judged(on=0, set=listed)) == [("GPU-5", "FAIL", "0")]


def test_after_a_training_its_own_memory_is_no_finding() -> None:
    """A callable ran in the entry itself, which still holds its context; memory nobody holds is a leak."""
    held = {"nvmlDeviceGetMemoryInfo": 4096 * MIB, "nvmlDeviceGetComputeRunningProcesses": [[7, 4000 * MIB]]}
    assert checks.after_training(reading(set=held), LIMITS, 4) == ()
    leaked = reading(on=1, set={"nvmlDeviceGetMemoryInfo": 4096 * MIB})
    assert seen(checks.after_training(leaked, LIMITS, 4)) == [("GPU-5", "FAIL", "1")]
    hot = reading(set={"nvmlDeviceGetTemperature": 80, "nvmlDeviceGetCurrentClocksEventReasons": 0x40})
    assert checks.after_training(hot, LIMITS, 4) == ()


def test_new_link_errors_are_counted_over_the_training() -> None:
    """GPU-13: five or more that were not there before."""
    old = reading(set={"nvmlDeviceGetNvLinkErrorCounter": 7})
    new = reading(on=2, set={"nvmlDeviceGetNvLinkErrorCounter": 8})  # 4 links with 3 counters each
    assert checks.new_link_errors(old, old, LIMITS) == ()
    (found,) = checks.new_link_errors(reading(), new, LIMITS)
    assert (found.check, found.level, found.gpu) == ("GPU-13", Level.WARN, "2")
    assert found.value == "96 new NVLink errors"


def test_only_what_may_pass_is_tried_again() -> None:
    """A process that is just leaving, memory that is just freed; never a broken GPU."""
    leaving = {"nvmlDeviceGetComputeRunningProcesses": [[1001, MIB]], "nvmlDeviceGetMemoryInfo": 2048 * MIB}
    assert checks.passing(judged(set=leaving))
    assert not checks.passing(judged(set={**leaving, "nvmlDeviceGetTotalEccErrors": [0, 1]}))
    assert not checks.passing(())


def test_a_thousand_healthy_nodes() -> None:
    """The false-positive gate: whatever healthy hardware, drivers and sites look like, never a FAIL."""
    dice = random.Random(3)
    unknown = [row[0] for row in ROWS.values()]
    for _ in range(1000):
        gpus = dice.choice([1, 2, 4, 8])
        profile: dict[str, Any] = {
            "gpus": gpus,
            "raises": {call: dice.choice([3, 4, 13]) for call in unknown if dice.random() < 0.2},
            "set": {
                "nvmlDeviceGetFieldValues": 0,
                "nvmlDeviceGetEccMode": dice.choice([0, 1]),
                "nvmlDeviceGetPersistenceMode": dice.choice([0, 1]),
                "nvmlDeviceGetComputeRunningProcesses": dice.choice([[], [[1002, None]], [[1003, MIB]]]),
                "nvmlDeviceGetMemoryInfo": dice.randrange(0, 700) * MIB,
                "nvmlDeviceGetTotalEccErrors": [dice.randrange(0, 60_000_000), 0],
                "nvmlDeviceGetRemappedRows": [dice.randrange(9), dice.randrange(3), dice.choice([0, 1]), 0],
                "nvmlDeviceGetRetiredPages": dice.randrange(0, 6),
                "nvmlDeviceGetRetiredPagesPendingStatus": dice.choice([0, 1]),
                "nvmlDeviceGetCurrentClocksEventReasons": dice.choice([0, 1, 2, 4, 0x20, 0x100]),
                "nvmlDeviceGetTemperature": dice.randrange(18, 78),
                "nvmlDeviceGetTemperatureThreshold": dice.choice([84, 87, 90, 97]),
                "nvmlDeviceGetNvLinkState": dice.choice([0, 2, 4]),
                "nvmlDeviceGetGpuFabricInfo": dice.choice([[0, 0], [3, 0]]),
            },
        }
        granted = tuple(str(index) for index in range(gpus))
        found = checks.judge(reading(granted, **profile), LIMITS, gpus)
        assert not checks.failed(found), (profile, found)
