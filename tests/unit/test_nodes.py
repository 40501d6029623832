"""Who avoids which node: pure decisions of the events and the clock; hostile names; the records on disk."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from hpcpools.errors import NotFoundError, PermissionsError, UsageError
from hpcpools.runs import nodes
from hpcpools.runs.nodes import Event, Node, choose, quarantined_until
from hpcpools.runs.token import new_token

HOUR, DAY = 3600.0, 86400.0
NOW = 1_800_000_000.0
A, B, C = (new_token(NOW + number) for number in range(3))


def failure(run: str, age: float, node: str = "n1", failed: bool = True) -> Event:
    """A failure of ``run`` that is ``age`` seconds old."""
    return Event(node, run, NOW - age, failed, "GPU-6", "1 uncorrected ECC errors", "0", "GPU-x")


def node(name: str, *events: Event) -> Node:
    """A node with these events."""
    return Node(name, events, quarantined_until(events, NOW))


@pytest.mark.parametrize(
    ("events", "until"),
    [
        ([], None),
        ([failure(A, HOUR)], None),
        ([failure(A, HOUR), failure(A, 2 * HOUR)], None),  # one run, however often
        ([failure(A, 2 * HOUR), failure(B, HOUR)], NOW - HOUR + DAY),
        ([failure(A, 26 * HOUR), failure(B, 3 * HOUR)], NOW - 3 * HOUR + DAY),  # 23 hours apart
        ([failure(A, 28 * HOUR), failure(B, 3 * HOUR)], None),  # 25 hours apart
        ([failure(A, 30 * HOUR), failure(B, 25 * HOUR)], None),  # expired
        ([failure(A, 2 * HOUR, failed=False), failure(B, HOUR)], None),  # a warning is no failure
        ([failure(A, -90 * DAY), failure(B, -91 * DAY)], None),  # a node's wrong clock
        ([failure(A, -60), failure(B, HOUR)], NOW + 60 + DAY),  # a little ahead
    ],
)
def test_quarantine(events: list[Event], until: float | None) -> None:
    """Two different runs within a day; for a day after the newest."""
    assert quarantined_until(events, NOW) == until


def test_a_run_avoids_its_own_bad_nodes_at_once() -> None:
    """After one failure, for a day; others do not mind yet."""
    bad = node("n1", failure(A, HOUR))
    assert choose([bad], A, NOW, 4) == ("n1",)
    assert choose([bad], B, NOW, 4) == ()
    assert choose([bad], A, NOW + DAY, 4) == ()


def test_all_avoid_at_most_a_quarter() -> None:
    """The worst first: most runs, then the newest; small partitions keep their nodes."""
    bad = [node(f"n{i}", failure(A, i * HOUR), failure(B, i * HOUR)) for i in range(1, 4)]
    worse = node("n9", failure(A, 9 * HOUR), failure(B, 9 * HOUR), failure(C, 9 * HOUR))
    other = new_token(NOW + 9)
    assert choose([*bad, worse], other, NOW, 16) == ("n1", "n2", "n3", "n9")
    assert choose([*bad, worse], other, NOW, 11) == ("n1", "n9")
    assert choose([*bad, worse], other, NOW, 4) == ("n9",)
    assert choose([*bad, worse], other, NOW, 3) == ()
    assert choose([*bad, worse], other, NOW, 0) == ()  # nobody knows how many there are


def test_a_node_is_always_left() -> None:
    """A run that failed everywhere waits for no empty set; its newest failures count."""
    bad = [node(f"n{i}", failure(A, i * HOUR)) for i in range(1, 4)]
    assert choose(bad, A, NOW, 3) == ("n1", "n2")
    assert choose(bad, A, NOW, 1) == ()


def evidence(at: float, verdict: str = "FAIL", **more: Any) -> dict[str, Any]:
    """What the checks hand over."""
    finding = {"check": "GPU-6", "level": verdict, "value": "3 errors", "gpu": "1", "uuid": "GPU-u"}
    return {"at": at, "phase": "preflight", "verdict": verdict, "findings": [finding], **more}


def test_records_are_read_back_and_released(tmp_path: Path) -> None:
    """One file per event; a release forgets what was before it, not what comes after."""
    for run, age in ((A, 2 * HOUR), (B, HOUR)):
        nodes.record_failure(tmp_path, "gpu-07.cluster", run, evidence(NOW - age))
    nodes.record_failure(tmp_path, "gpu-07.cluster", B, evidence(NOW - HOUR))  # the same event
    (found,) = nodes.read_nodes(tmp_path, NOW)
    assert (found.name, len(found.events), found.runs) == ("gpu-07.cluster", 2, (A, B))
    assert found.quarantined_until == NOW - HOUR + DAY
    assert nodes.excluded(tmp_path, C, NOW, 4) == ("gpu-07.cluster",)
    nodes.release(tmp_path, "gpu-07.cluster", NOW)
    assert nodes.read_nodes(tmp_path, NOW) == ()
    nodes.record_failure(tmp_path, "gpu-07.cluster", C, evidence(NOW + 60))
    assert nodes.excluded(tmp_path, C, NOW + 70, 4) == ("gpu-07.cluster",)
    with pytest.raises(NotFoundError):
        nodes.release(tmp_path, "n1", NOW)


def test_the_report_names_everything_an_admin_needs(tmp_path: Path) -> None:
    """Node, GPU, uuid, check, value, time, run."""
    nodes.record_failure(tmp_path, "n1", A, evidence(NOW))
    (found,) = nodes.read_nodes(tmp_path, NOW)
    text = nodes.report(found, {NOW: "today"})
    for word in ("n1", "GPU 1 GPU-u", "GPU-6 FAIL", "3 errors", "today", A):
        assert word in text


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".hidden", "n1\n", "-n", "x" * 65, "n 1", "n1;rm"])
def test_hostile_node_names_are_refused(tmp_path: Path, name: str) -> None:
    """A node's name becomes a folder and a word of sbatch."""
    with pytest.raises(UsageError):
        nodes.record_failure(tmp_path, name, A, evidence(NOW))
    assert list(tmp_path.iterdir()) == []


def test_foreign_files_are_passed_over(tmp_path: Path) -> None:
    """Torn, strange or hostile files in the folder disturb nobody."""
    path = nodes.record_failure(tmp_path, "n1", A, evidence(NOW))
    for name, text in {
        f"00000000000001-{B}-preflight.json": "{",
        f"00000000000002-{B}-preflight.json": "[]",
        f"00000000000003-{B}-preflight.json": '{"at": "x"}',
        f"00000000000004-{B}-preflight.json": json.dumps({"at": NOW, "verdict": "FAIL", "findings": [7]}),
        "notes.txt": "hello",
        "released.json": "[1]",
    }.items():
        (path.parent / name).write_text(text)
    (tmp_path / ".nodes" / "bad name").mkdir()
    (found,) = nodes.read_nodes(tmp_path, NOW)
    assert [event.run for event in found.events] == [A]


def test_a_symlink_instead_of_the_folder_is_refused(tmp_path: Path) -> None:
    """Nothing is written through it."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".nodes").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionsError):
        nodes.record_failure(tmp_path, "n1", A, evidence(NOW))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_many_nodes_write_at_once(tmp_path: Path) -> None:
    """No shared file, no lock: every event is there."""
    runs = [new_token(NOW + number) for number in range(20)]
    writers = [
        threading.Thread(target=nodes.record_failure, args=(tmp_path, f"n{i % 2}", run, evidence(NOW + i)))
        for i, run in enumerate(runs)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = nodes.read_nodes(tmp_path, NOW)
    assert sorted(event.run for one in found for event in one.events) == sorted(runs)


def test_old_events_are_forgotten(tmp_path: Path) -> None:
    """A month later the file is gone."""
    old = nodes.record_failure(tmp_path, "n1", A, evidence(NOW - 31 * DAY))
    nodes.record_failure(tmp_path, "n1", B, evidence(NOW))
    assert not old.exists()
