"""GPU-hours held and used: by user, run, partition and label, over attempts, nodes and a window of time."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from hpcpools import atomic
from hpcpools.runs import directory, span, telemetry
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Request, Resources
from hpcpools.runs.states import RunState
from hpcpools.runs.token import new_token
from hpcpools.runs.usage import Hours, closed, hours, summed
from hpcpools.runs.view import View, read_view
from tests.project import Project

HOUR = 3600.0
T = float(int(time.time()) - 100 * 3600)  # whole seconds; all times below are hours after it
Started = tuple[float, float | None]  # hours; None: no end marker


def run_of(root: Path, *attempts: Started, gpus: int = 2, nodes: int = 1, **facts: str) -> RunDirectory:
    """A run whose node wrote these attempts."""
    asked = Resources(gpus=gpus, nodes=nodes, partition=facts.pop("partition", ""))
    request = Request(new_token(T), T, "slurm", asked, command=("true",), **facts)  # type: ignore[arg-type]
    run = directory.create(root, request)
    run.next_submission(T)
    for restart, (begin, end) in enumerate(attempts):
        folder = run.attempts / f"0.{restart}"
        folder.mkdir()
        nodelist = f"n[1-{nodes}]" if nodes > 1 else ""
        atomic.write_json(folder / "start.json", {"at": T + begin * HOUR, "nodelist": nodelist})
        if end is not None:
            atomic.write_json(folder / "end.json", {"outcome": "completed", "at": T + end * HOUR})
    return run


def measured(run: RunDirectory, name: str, *points: tuple[float, float]) -> None:
    """Telemetry of an attempt (or of one of its further nodes): hour, and GPU-hours used by then."""
    folder = run.attempts / name
    folder.mkdir(exist_ok=True)
    for at, used in points:
        telemetry.append(folder, T + at * HOUR, used * HOUR, None, "", [])


def all_of(*runs: RunDirectory) -> list[tuple[RunDirectory, View]]:
    """As the command reads them."""
    return [(run, read_view(run)) for run in runs]


def test_attempts_are_summed_and_what_was_not_measured_is_said(tmp_path: Path) -> None:
    """Two starts of one run, one measured for a part of its time; another user's; one without GPUs."""
    mine = run_of(tmp_path, (0, 2), (3, 4), user="a", label="x", partition="gpu")
    measured(mine, "0.0", (1, 0.5), (1.5, 1.0))
    other = run_of(tmp_path, (0, 1), user="b", gpus=4)
    cpus = run_of(tmp_path, (0, 9), user="a", gpus=0)
    found = summed(all_of(mine, other, cpus), "user", T, T + 10 * HOUR)
    assert [(row.key, row.runs, row.attempts, row.hours) for row in found] == [
        ("a", 1, 2, Hours(held=6.0, measured=3.0, used=1.0)),
        ("b", 1, 1, Hours(held=4.0)),
    ]
    by_label = summed(all_of(mine, other), "label", T, T + 10 * HOUR)
    assert [row.key for row in by_label] == ["x", "(none)"]
    by_partition = summed(all_of(mine, other), "partition", T, T + 10 * HOUR)
    assert [row.key for row in by_partition] == ["gpu", "(default)"]
    assert [row.key for row in summed(all_of(mine, other), "run", T, T + 10 * HOUR)] == [
        mine.token,
        other.token,
    ]


def test_a_window_cuts_what_began_before_it(tmp_path: Path) -> None:
    """From hour 2 on: two of four hours, and what was used after the last measurement before that."""
    run = run_of(tmp_path, (0, 4))
    measured(run, "0.0", (1, 1.0), (1.9, 1.5), (3, 2.5), (4, 4.5))
    (row,) = summed(all_of(run), "run", T + 2 * HOUR, T + 9 * HOUR)
    assert row.hours == Hours(held=4.0, measured=4.0, used=3.0)
    assert summed(all_of(run), "run", T + 5 * HOUR, T + 9 * HOUR) == []


def test_each_node_counts(tmp_path: Path) -> None:
    """Three nodes with two GPUs each for an hour, of which two measured."""
    run = run_of(tmp_path, (0, 1), nodes=3)
    measured(run, "0.0", (1, 1.5))
    measured(run, "0.0/node-1", (1, 0.5))
    (row,) = summed(all_of(run), "run", T, T + 9 * HOUR)
    assert row.hours == Hours(held=6.0, measured=4.0, used=2.0)


@pytest.mark.parametrize(("later", "ends"), [(2.0, 2.0), (None, 5.0)])
def test_a_lost_node_held_nothing_while_its_run_waited(
    tmp_path: Path, later: float | None, ends: float
) -> None:
    """No end marker: it ended when Slurm was seen to have requeued it, else when the next one started."""
    run = run_of(tmp_path, (0, None), (5, None))
    run.record(RunState.PENDING, T + 0.01 * HOUR, job_id="7")  # sbatch's answer, written late
    if later is not None:
        run.record(RunState.PENDING, T + later * HOUR, of=0, detail="REQUEUED")
    run.record(RunState.RUNNING, T + 5.1 * HOUR, of=0, detail="RUNNING")
    view = read_view(run)
    assert view.state is RunState.RUNNING
    first, second = closed(run, view, T + 7 * HOUR)
    assert (first.ended, second.ended) == (T + ends * HOUR, T + 7 * HOUR)
    assert hours((first, second), 1, 1, T).held == ends + 2


def test_damaged_telemetry_is_no_measurement(tmp_path: Path) -> None:
    """Foreign lines, and a driver that tells no utilisation."""
    run = run_of(tmp_path, (0, 1))
    file = run.attempts / "0.0" / telemetry.FILE
    file.write_text(
        'nonsense\n{"at": "x", "used": 5}\n{"at": 1}\n' + json.dumps({"at": T, "used": None}) + "\n"
    )
    (row,) = summed(all_of(run), "run", T, T + 9 * HOUR)
    assert row.hours == Hours(held=2.0)


def test_the_command(laptop: Project) -> None:
    """Two runs of this user, one measured: table, JSON, and the word where nothing is known."""
    laptop.root.mkdir(mode=0o700)
    first = run_of(laptop.root, (0, 2), user="me", label="one")
    run_of(laptop.root, (0, 2), user="me", label="two\x1b[31m")
    measured(first, "0.0", (2, 3.0))
    since = ("--since", "5d")
    answer = laptop.json("usage", *since)
    (row,) = answer["rows"]
    assert (row["user"], row["runs"], row["held_hours"]) == ("me", 2, 8.0)
    assert (row["used_hours"], row["unmeasured_hours"]) == (3.0, 4.0)
    assert answer["total"]["held_hours"] == 8.0
    shown = laptop.cli("usage", *since, "--by", "label").stdout
    assert "unknown" in next(line for line in shown.splitlines() if line.startswith("two"))
    assert "total" in shown
    assert "\x1b[31m" not in shown
    assert "no training held a GPU" in laptop.cli("usage", "--since", "1s").stdout


def test_what_ended_before_a_span_is_not_looked_at(tmp_path: Path) -> None:
    """Told by the files' times alone, but never of a run that lives or has no verdict."""
    now = time.time()
    made = {}
    for name, age in (("ancient", 90), ("old", 20), ("young", 20), ("unjudged", 90), ("live", 90)):
        at = now - age * 24 * HOUR
        run = directory.create(tmp_path, Request(new_token(at), at, "slurm", Resources(), command=("true",)))
        made[run.token] = name
        if name != "live":
            run.record(RunState.COMPLETED, at + HOUR)
        if name not in ("live", "unjudged"):
            run.ended_mark.unlink()
        ended = now if name == "young" else at + HOUR
        os.utime(run.events_file, (ended, ended))
    found = [made[token] for token in span.tokens(tmp_path, now - 7 * 24 * HOUR)]
    assert sorted(found) == ["live", "unjudged", "young"]
    assert len(span.tokens(tmp_path, now - 30 * 24 * HOUR)) == 4
    assert len(span.tokens(tmp_path, 0.0)) == 5
