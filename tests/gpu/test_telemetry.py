"""Telemetry: three traces and their verdicts, the sampler beside a real entry, GPU-hours."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from hpcpools import atomic
from hpcpools.gpu.sample import Sampler
from hpcpools.runs import telemetry
from hpcpools.runs.attempts import Attempt
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.telemetry import Point, usage, verdict
from hpcpools.runs.token import new_token
from hpcpools.schema import Telemetry
from hpcpools.training import sampler
from tests.gpu.entry import QUICK, Node, only
from tests.gpu.fake_nvml import FakeNvml

LIMITS = Telemetry()
STEP = 5.0  # seconds between samples


def trace(seconds: float, util: float, steps: str) -> list[Point]:
    """``seconds`` of one utilisation; steps: none were logged, still (no new one), or moving."""
    count = int(seconds / STEP) + 1
    numbers: dict[str, list[int | None]] = {
        "none": [None] * count,
        "still": [7] * count,
        "moving": list(range(count)),
    }
    return [Point(i * STEP, util, util, number) for i, number in enumerate(numbers[steps])]


@pytest.mark.parametrize(
    ("util", "steps", "delay", "expected"),
    [
        (0, "none", 900, "idle"),
        (3, "still", 900, "idle"),
        (100, "still", 1800, "hung"),
        (12, "moving", 900, "starved"),
    ],
)
def test_the_three_verdicts_come_at_their_delay(util: float, steps: str, delay: float, expected: str) -> None:
    """Not five seconds earlier, and again at every sample after it."""
    assert verdict(trace(delay - STEP, util, steps), LIMITS) == ""
    assert verdict(trace(delay, util, steps), LIMITS) == expected
    assert verdict(trace(delay + 60, util, steps), LIMITS) == expected


@pytest.mark.parametrize(
    ("util", "steps"),
    [
        (95, "moving"),  # healthy
        (40, "moving"),  # not fast, but not waiting most of the time
        (100, "none"),  # busy, logs no steps: nobody can say that it hangs
        (20, "still"),  # an evaluation between two steps
    ],
)
def test_what_is_healthy_or_unknown_has_no_verdict(util: float, steps: str) -> None:
    """For hours."""
    assert verdict(trace(3 * 3600, util, steps), LIMITS) == ""


def test_one_sign_of_life_ends_a_verdict() -> None:
    """A step, or a busy moment, within the window."""
    idle = trace(1000, 0, "none")
    assert verdict([*idle[:-1], Point(1000, 60, 60, None)], LIMITS) == ""
    hung = trace(2000, 100, "still")
    assert verdict([*hung[:-1], Point(2000, 100, 100, 8)], LIMITS) == ""
    assert verdict([], LIMITS) == ""


def test_the_sampler_s_own_cost(tmp_path: Path) -> None:
    """At most 0.5 % of a CPU: 25 ms of work for each 5 s, with eight GPUs and a growing metrics file."""
    run = RunDirectory(tmp_path, new_token(time.time()))
    run.path.mkdir()
    busy: dict[str, Any] = {"gpus": 8, "set": {"nvmlDeviceGetUtilizationRates": 90}}
    gpus = Sampler(FakeNvml(busy), ())
    watch = sampler.Watch(run, tmp_path, LIMITS, started=0.0)
    for step in range(2000):
        atomic.append_line(run.metrics_file, {"at": step, "step": step, "loss": 0.1})
    looks = 400
    began = time.process_time()
    for number in range(looks):
        atomic.append_line(run.metrics_file, {"at": number, "step": number, "loss": 0.1})
        watch.look(gpus.take(), number * STEP)
    assert (time.process_time() - began) / looks < 0.005 * STEP


def test_it_measures_beside_a_training_and_stops_an_idle_one(node: Node) -> None:
    """Idle for 0.4 s with the policy "stop": the stop file, which the command heeds; a line a sample."""
    limits = Telemetry(interval=0.05, idle_after=0.4, on_idle="stop")
    heed = 'until [ -e "$HPCPOOLS_STOP_FILE" ]; do sleep 0.05; done; exit 75'
    run = node.start({"set": {"nvmlDeviceGetUtilizationRates": 2}}, QUICK, then=heed, telemetry=limits)
    attempt = only(run)
    assert (node.exit_code, attempt.outcome, attempt.cause.value) == (75, "stopped", "stopped by a signal")
    assert "telemetry: idle (policy: stop)" in (attempt.path / "log.err").read_text()
    assert telemetry.announced(attempt)["idle"]["policy"] == "stop"
    lines = atomic.read_lines(attempt.path / "gpu.jsonl")
    assert len(lines) > 5
    assert lines[-1]["verdict"] == "idle"
    assert lines[-1]["gpus"][2] == {"gpu": "2", "util": 2, "memory": 4, "power": 61.5, "processes": {}}


def test_a_note_stops_nothing(node: Node) -> None:
    """The default policy: a line in the log, and the command goes on to its end."""
    limits = Telemetry(interval=0.05, idle_after=0.3)
    wait = f"until grep -q idle {node.root}/hp-*/attempts/0.0/log.err; do sleep 0.05; done"
    run = node.start({}, QUICK, then=wait, telemetry=limits)
    assert (node.exit_code, only(run).outcome) == (0, "completed")
    assert not (only(run).path / "stop").exists()
    assert telemetry.announced(only(run)) == {}


def test_a_notice_is_announced_and_stops_nothing(node: Node) -> None:
    """The policy "notify": a line for upkeep, the step with it; the command goes on to its end."""
    limits = Telemetry(interval=0.05, idle_after=1.0, on_idle="notify")
    log = 'echo "{\\"at\\": 9e9, \\"step\\": 7}" >> "$HPCPOOLS_METRICS_FILE"'
    wait = f"{log}; until [ -e {node.root}/hp-*/attempts/0.0/verdicts.jsonl ]; do sleep 0.05; done"
    run = node.start({}, QUICK, then=wait, telemetry=limits)
    assert (node.exit_code, only(run).outcome) == (0, "completed")
    assert not (only(run).path / "stop").exists()
    (found,) = telemetry.announced(only(run)).values()
    assert (found["verdict"], found["policy"], found["step"]) == ("idle", "notify", 7)


def test_nothing_is_left_behind(node: Node) -> None:
    """The measuring process ends with the entry, also when NVML hangs."""
    hanging = {"hang": ["nvmlDeviceGetPowerUsage"]}
    run = node.start(hanging, QUICK, telemetry=Telemetry(interval=0.05))
    assert (node.exit_code, only(run).outcome) == (0, "completed")
    alive = [
        name
        for name in os.listdir("/proc")
        if name.isdigit() and run.token.encode() in _command_line(int(name))
    ]
    assert alive == []


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_gpu_hours_are_summed_over_the_attempts(tmp_path: Path) -> None:
    """Held: GPUs times wall time. Used: by utilisation, as measured; None where nothing was."""
    first, second = tmp_path / "0.0", tmp_path / "0.1"
    for folder, used in ((first, 3600.0), (second, 1800.0)):
        folder.mkdir()
        telemetry.append(folder, 10.0, used / 2, 1, "", [])
        telemetry.append(folder, 20.0, used, 2, "starved", [{"gpu": "0", "util": 9}])
    attempts = [
        Attempt(1, 0, 0, first, started=1000.0),
        Attempt(2, 0, 1, second, started=8200.0),
    ]
    found = usage(attempts, 4, now=11800.0)
    assert (found.held, found.used, found.verdict) == (12.0, 1.5, "starved")
    unknown = usage([Attempt(1, 0, 0, tmp_path / "none", started=1000.0, ended=4600.0)], 2, now=0.0)
    assert (unknown.held, unknown.used) == (2.0, None)
