"""Nodes that failed trainings: one file per event under ``<root>/.nodes/<node>/``, and who avoids them.

Written by compute nodes (each event a new file, nothing shared) and by ``nodes --release``. The decisions
are pure functions of the records and the clock. Refuses node names that are no plain name.

    <root>/.nodes/<node>/<milliseconds>-<token>-<phase>.json    what a check found
                         released.json                          events up to here no longer count
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcpools import atomic
from hpcpools.errors import HpcpoolsError, NotFoundError, UsageError
from hpcpools.runs.directory import check_owned
from hpcpools.runs.token import check_token, is_token
from hpcpools.textsafe import one_line

RUNS = 2  # that many different runs must have failed on a node ...
WINDOW = 24 * 3600.0  # ... within this time (seconds) ...
TTL = 24 * 3600.0  # ... for all others to avoid it this long after its newest failure
CLOCK_ERROR = 3600.0  # seconds that a node's clock may be ahead of ours
SHARE = 4  # of every four nodes of a partition at most one is avoided by all
KEEP = 30 * 86400.0  # seconds until an event's file is removed

_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_EVENT = re.compile(r"([0-9]{1,16})-(hp-[0-9a-z]{26})-([a-z]{1,16})\.json")


@dataclass(frozen=True)
class Event:
    """What a check found on a node during a run. ``failed``: the node was unfit, else only a warning."""

    node: str
    run: str
    at: float
    failed: bool
    check: str = ""
    value: str = ""
    gpu: str = ""
    uuid: str = ""
    phase: str = "preflight"


@dataclass(frozen=True)
class Node:
    """One node's events that count, oldest first, and until when all runs avoid it (None: they do not)."""

    name: str
    events: tuple[Event, ...]
    quarantined_until: float | None

    @property
    def failures(self) -> tuple[Event, ...]:
        """The events that are failures."""
        return tuple(event for event in self.events if event.failed)

    @property
    def runs(self) -> tuple[str, ...]:
        """The different runs that failed there, oldest first."""
        return tuple(dict.fromkeys(event.run for event in self.failures))


def check_node(name: str) -> str:
    """``name`` if it is a node's name (letters, digits, ``_ . -``). Raises UsageError."""
    if not _NODE.fullmatch(name):
        raise UsageError(f"{one_line(name)!r} is no node name", hint="`hpcpools nodes` lists them")
    return name


def record_failure(root: Path, node: str, run_token: str, evidence: Mapping[str, Any]) -> Path:
    """Write one event of ``node``, durable and whole; the file. Raises UsageError for a bad node name.

    ``evidence``: ``at`` (epoch seconds), ``phase``, ``verdict`` (FAIL or WARN), ``findings`` (a list of
    ``check``, ``level``, ``value``, ``gpu``, ``uuid``, worst first). The same event twice is one file.
    """
    folder = root / ".nodes" / check_node(node)
    for each in (folder.parent, folder):
        with contextlib.suppress(FileExistsError):
            each.mkdir(mode=0o700)
        check_owned(each)
    at, phase = float(evidence["at"]), str(evidence.get("phase", "preflight"))
    path = folder / f"{int(at * 1000):014d}-{check_token(run_token)}-{phase}.json"
    if not _EVENT.fullmatch(path.name):
        raise UsageError(f"phase {one_line(phase)!r} is no word", hint="lower-case letters only")
    atomic.create_json(path, dict(evidence))
    _forget(folder, at - KEEP)
    return path


def release(root: Path, node: str, now: float) -> None:
    """Trust ``node`` again: its events up to ``now`` no longer count. Raises NotFoundError, UsageError."""
    folder = root / ".nodes" / check_node(node)
    if not folder.is_dir():
        raise NotFoundError(f"no record of node {node}", hint="`hpcpools nodes` lists the recorded ones")
    atomic.write_json(folder / "released.json", {"at": now})


def excluded(root: Path, token: str, now: float, partition_nodes: int, needed: int = 1) -> tuple[str, ...]:
    """The nodes that the next submission of run ``token`` must avoid, sorted.

    Its own bad nodes, and those that all runs avoid as far as they are at most a quarter of the
    partition's ``partition_nodes``; never so many that less than the ``needed`` nodes are left.
    """
    return choose(read_nodes(root, now), token, now, partition_nodes, needed)


def choose(
    nodes: Iterable[Node], token: str, now: float, partition_nodes: int, needed: int = 1
) -> tuple[str, ...]:
    """The decision of :func:`excluded`. Pure. ``partition_nodes`` 0 means unknown: only its own nodes."""
    own: dict[str, float] = {}
    common: dict[str, tuple[int, float]] = {}
    for node in nodes:
        mine = [event.at for event in _recent(node.events, now) if event.run == token]
        if mine:
            own[node.name] = max(mine)
        elif node.quarantined_until is not None:
            common[node.name] = (len(node.runs), node.quarantined_until)
    worst = sorted(common, key=lambda name: common[name], reverse=True)[: max(0, partition_nodes) // SHARE]
    newest = sorted(own, key=lambda name: own[name], reverse=True)
    room = max(0, partition_nodes - needed) if partition_nodes > 0 else len(newest)
    return tuple(sorted((newest + worst)[:room]))


def read_nodes(root: Path, now: float) -> tuple[Node, ...]:
    """All nodes with events that count, by name."""
    found = []
    for name in sorted(_names(root / ".nodes")):
        events = read_events(root, name) if _NODE.fullmatch(name) else ()
        if events:
            found.append(Node(name, events, quarantined_until(events, now)))
    return tuple(found)


def quarantined_until(events: Iterable[Event], now: float) -> float | None:
    """When all runs may use the node again; None if they may now. Pure.

    Failures of two different runs within a day: avoided for a day after the newest failure.
    """
    every = list(events)
    recent = _recent(every, now)
    if not recent:
        return None
    newest = max(event.at for event in recent)
    runs = {event.run for event in every if event.failed and 0 <= newest - event.at <= WINDOW}
    return newest + TTL if len(runs) >= RUNS else None


def read_events(root: Path, node: str) -> tuple[Event, ...]:
    """A node's events since its release, oldest first."""
    folder = root / ".nodes" / check_node(node)
    try:
        released = float((atomic.read_json(folder / "released.json") or {}).get("at", 0.0))
    except (ValueError, TypeError, AttributeError):
        released = 0.0
    found = []
    for name in sorted(_names(folder)):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError, HpcpoolsError):
            event = _read(folder / name, node)
            if event is not None and event.at > released:
                found.append(event)
    return tuple(found)


def _recent(events: Iterable[Event], now: float) -> list[Event]:
    """Failures younger than the TTL; what a wrong clock dates far into the future never counts."""
    return [event for event in events if event.failed and -CLOCK_ERROR <= now - event.at < TTL]


def report(node: Node, at_text: Mapping[float, str]) -> str:
    """A text for the site's admins: node, GPU, check, value, when. ``at_text``: each time, as text."""
    lines = [
        f"Node {node.name}: GPU checks failed before or after {len(node.runs)} different training job(s).",
        "Our jobs avoid the node for now; we cannot drain or reset it. Please have a look.",
        "",
    ]
    for event in node.events:
        level = "FAIL" if event.failed else "WARN"
        gpu = f"GPU {event.gpu} {event.uuid}".rstrip() if event.gpu else "the node"
        lines.append(f"  {at_text[event.at]}  {event.check} {level}  {gpu}: {event.value}  (run {event.run})")
    lines += ["", "`nvidia-smi -q` and, as root, `dmesg | grep -i xid` show more."]
    return "\n".join(lines)


def _read(path: Path, node: str) -> Event | None:
    name = _EVENT.fullmatch(path.name)
    facts = atomic.read_json(path) if name else None
    if name is None or facts is None or not is_token(name[2]):
        return None
    worst = next(iter(facts.get("findings") or [{}]))
    return Event(
        node=node,
        run=name[2],
        at=float(facts["at"]),
        failed=facts.get("verdict") == "FAIL",
        check=str(worst.get("check", "")),
        value=str(worst.get("value", "")),
        gpu=str(worst.get("gpu", "")),
        uuid=str(worst.get("uuid", "")),
        phase=name[3],
    )


def _forget(folder: Path, before: float) -> None:
    for name in _names(folder):
        found = _EVENT.fullmatch(name)
        if found and int(found[1]) / 1000 < before:
            with contextlib.suppress(FileNotFoundError):
                (folder / name).unlink()


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
