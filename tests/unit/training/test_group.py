"""The nodes of one attempt: who waits for whom, and which node's end is the attempt's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from hpcpools import config as configuration
from hpcpools.declare import TrainingDeclaration
from hpcpools.errors import UsageError
from hpcpools.runs import attempts, directory, nodes
from hpcpools.runs.attempts import Place
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.request import Request, Resources, decode, encode
from hpcpools.runs.states import Cause
from hpcpools.runs.token import new_token
from hpcpools.training import group, launch, nodeenv, plan
from hpcpools.training.ending import Ending, read_rank_ending, write_rank_ending
from hpcpools.training.group import Account, Group, combine
from hpcpools.training.plan import Options

GOOD = Ending("completed")
BAD = Ending("failed", 1, cause=Cause.USER_ERROR, error="exit code 1")
WARNED = Ending("stopped", 75, 12, Cause.STOPPED)
PLACE = Place("c", "7", 0, "n1", 1, 1, "b", nodelist="n[1-2]")


def accounts(*endings: Ending | None) -> list[Account]:
    """One of each node in order of time; None did not say anything."""
    return [
        Account(index, f"n{index + 1}", float(index), ending)
        for index, ending in enumerate(endings)
        if ending is not None
    ]


MEMORY = Ending("failed", 1, cause=Cause.OUT_OF_MEMORY, error="memory")
NOT_MET = Ending("failed", 69, cause=Cause.LAUNCH_FAILURE, error="not met")
KILLED = Ending("killed", 137, 9, Cause.KILLED, "killed")
CANCELLED = Ending("stopped", 75, cause=Cause.CANCELLED)
SILENT = "node n2 did not say how it ended: it is lost, or our process there was killed"
TAKEN_ALONG = Ending("stopped", 1, error="node n2 ended first")


@pytest.mark.parametrize(
    ("ends", "outcome", "cause", "error"),
    [
        ((GOOD, GOOD), "completed", Cause.NONE, ""),
        ((GOOD, BAD), "failed", Cause.USER_ERROR, "node n2: exit code 1"),
        ((TAKEN_ALONG, BAD, TAKEN_ALONG), "failed", Cause.USER_ERROR, "node n2: exit code 1"),
        ((BAD, replace(BAD, error="later")), "failed", Cause.USER_ERROR, "node n1: exit code 1"),
        ((NOT_MET, BAD), "failed", Cause.USER_ERROR, "node n2: exit code 1"),
        ((BAD, MEMORY), "failed", Cause.OUT_OF_MEMORY, "node n2: memory"),
        ((KILLED, BAD), "killed", Cause.KILLED, "node n1: killed"),
        ((GOOD, WARNED), "stopped", Cause.STOPPED, ""),
        ((WARNED, replace(WARNED, signal=15)), "stopped", Cause.STOPPED, ""),
        ((BAD, CANCELLED), "stopped", Cause.CANCELLED, ""),
        ((BAD, None), "killed", Cause.NODE_FAILURE, SILENT),
        ((WARNED, None), "stopped", Cause.STOPPED, ""),
    ],
)
def test_the_end_of_a_group(ends: tuple[Ending | None, ...], outcome: str, cause: Cause, error: str) -> None:
    """The first that failed names it; silence of a node is no user's error; USR2 beats TERM."""
    found = combine(accounts(*ends), ["n1", "n2", "n3"][: len(ends)])
    assert (found.outcome, found.cause, found.error) == (outcome, cause, error)
    if cause is Cause.STOPPED:
        assert found.signal == 12


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Group, Group]:
    """Two nodes of one attempt, quick to look."""
    monkeypatch.setattr(group, "LOOK", 0.01)
    monkeypatch.setattr(group, "WATCH", 0.01)
    monkeypatch.setenv("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1")
    return Group(tmp_path, PLACE, 2), Group(tmp_path, structs.replace(PLACE, node="n2", index=1), 2)


def beside(work: Callable[[], Any]) -> Callable[[], Any]:
    """Start ``work`` in a thread; the function waits for what it returns."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()

    def result() -> Any:
        thread.join(10)
        return found[0]

    return result


def never() -> bool:
    """Not cancelled."""
    return False


def test_nodes_meet_and_end_together(pair: tuple[Group, Group]) -> None:
    """The second takes the first one's checkpoint and port; each waits for the other's end."""
    first, second = pair
    helper = beside(lambda: second.assemble(lambda: "not asked", never))
    assert first.assemble(lambda: "step-7", never) is None
    assert helper() is None
    assert second.resume == "step-7"
    assert second.meeting() == first.meeting()
    assert second.folder == first.attempt / "node-1"
    first.stop_listening()
    leader = beside(lambda: first.outcome(GOOD))
    time.sleep(0.05)
    assert second.outcome(GOOD) == GOOD
    assert leader() == GOOD


def test_a_node_that_fails_its_checks_ends_the_start(pair: tuple[Group, Group]) -> None:
    """Nobody waits for a rendezvous; the first speaks of it, the others were taken along."""
    first, second = pair
    unfit = Ending("failed", 75, cause=Cause.BAD_NODE, error="node n2 is unfit: GPU-6")
    assert second.outcome(unfit) == unfit
    assert first.assemble(lambda: "", never) == unfit
    refused = Ending("failed", 0, cause=Cause.NO_PROGRESS, error="hopeless")
    third = Group(first.attempt, structs.replace(PLACE, node="n3", index=2), 3)
    (first.attempt / "ended-1.json").unlink()
    Group(first.attempt, PLACE, 3).outcome(refused)
    found = third.assemble(lambda: "", never)
    assert found == Ending("stopped", 0, error="node n1 ended first")


def test_a_silent_node_is_lost(pair: tuple[Group, Group]) -> None:
    """The first waits for it, but not for ever."""
    first, second = pair
    helper = beside(lambda: second.assemble(lambda: "", never))
    first.assemble(lambda: "", never)
    helper()
    first.stop_listening()
    assert first.outcome(BAD, patience=0.05).cause is Cause.NODE_FAILURE


def test_a_node_that_heeded_a_warning_breaks_nothing_at_once(
    pair: tuple[Group, Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others save, too; after a while they are ended."""
    first, second = pair
    second.outcome(WARNED)
    assert first.broken() is None
    monkeypatch.setattr(group, "STOPS", 0.0)
    time.sleep(0.02)
    gone = first.broken()
    assert gone is not None
    assert gone.node == "n2"


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run of two nodes with one submission."""
    now = time.time()
    asked = Request(token=new_token(now), created=now, engine="slurm", resources=Resources(nodes=2))
    made = directory.create(tmp_path / "runs", asked)
    made.next_submission(now)
    return made


def test_the_others_join_the_first_one_s_claim(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of this very job and restart; a cancelled run and another job's are left alone."""
    monkeypatch.setattr(group, "LOOK", 0.01)
    here = structs.replace(PLACE, node="n2", index=1)
    helper = beside(lambda: group.join(run, 0, here))
    time.sleep(0.05)
    attempt = attempts.claim(run, 0, PLACE, time.time())
    assert attempt is not None
    assert helper() == attempt
    (found,) = attempts.read_attempts(run)
    assert (found.where, [attempts.node_name(folder) for folder in found.folders]) == ("n[1-2]", ["n1", "n2"])
    assert attempts.whole(found.folders[1]) == attempt
    assert group.join(run, 0, structs.replace(here, job_id="8")) is None
    run.cancel(time.time())
    assert group.join(run, 0, structs.replace(here, restart=1)) is None


def test_the_rank_that_failed_first_is_told(tmp_path: Path) -> None:
    """Not the lowest one, which may only have lost its peer."""
    write_rank_ending(tmp_path, 3, replace(BAD, error="made of cheese"))
    write_rank_ending(tmp_path, 0, replace(BAD, error="connection closed by peer"))
    found = read_rank_ending(tmp_path, 4)
    assert found is not None
    assert found.error == "made of cheese"
    asked = Request(
        "hp-" + "0" * 26, 0.0, "slurm", Resources(gpus=2, nodes=2), target="a:b", launcher="elastic"
    )
    assert launch.as_ranks_told(asked, tmp_path, BAD).error == "made of cheese"
    lost = Ending("killed", 75, cause=Cause.NODE_FAILURE, error="lost?")
    assert launch.as_ranks_told(asked, tmp_path, lost) == lost


def test_the_node_s_number_and_the_group_s_names() -> None:
    """As Slurm tells them; one node has no list."""
    env = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "2", "SLURM_NNODES": "3", "SLURM_JOB_NODELIST": "n[1-3]"}
    assert (nodeenv.place(env).index, nodeenv.place(env).nodelist) == (2, "n[1-3]")
    alone = nodeenv.place({"SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "n1"})
    assert (alone.index, alone.nodelist) == (0, "")


def test_an_older_request_has_one_node() -> None:
    """run.json of before has no such key."""
    asked = Request("hp-" + "0" * 26, 0.0, "slurm", Resources(gpus=2))
    text = encode(asked).replace(b'"nodes": 1,', b"")
    assert b"nodes" not in text
    assert decode(text) == asked


def planned(
    tmp_path: Path, nodes: int | None, declared: int | None = None, engine: Any = "slurm"
) -> Resources:
    """What is asked for on a partition of three nodes with four GPUs each."""
    (tmp_path / "hpcpools.toml").write_text(
        '[training]\npartition = "gpu"\n[training.partitions.gpu]\ngpus_per_node = 4\nnodes = 3\n'
    )
    config = configuration.load(tmp_path / "hpcpools.toml")
    return plan._resources(config, TrainingDeclaration(nodes=declared), Options(nodes=nodes), engine)


def test_nodes_by_command_line_declaration_and_config(tmp_path: Path) -> None:
    """The command line first; one if nobody says anything."""
    assert [planned(tmp_path, *asked).nodes for asked in ((3, 2), (None, 2), (None, None))] == [3, 2, 1]
    assert planned(tmp_path, 3).all_gpus == 12


@pytest.mark.parametrize(
    ("nodes", "engine", "told"),
    [(4, "slurm", "partition gpu has 3"), (0, "slurm", "nodes=0"), (2, "local", "one machine is one node")],
)
def test_refused(tmp_path: Path, nodes: int, engine: str, told: str) -> None:
    """What no site can give."""
    with pytest.raises(UsageError, match=told):
        planned(tmp_path, nodes, engine=engine)


def test_bad_nodes_are_avoided_only_while_enough_are_left() -> None:
    """A run of two nodes on three may avoid one; of three none."""
    now = 1000.0
    bad = [
        nodes.Node(name, (nodes.Event(name, "hp-a", now - 9, failed=True),), None) for name in ("n1", "n2")
    ]
    assert [nodes.choose(bad, "hp-a", now, 3, needed) for needed in (1, 2, 3)] == [("n1", "n2"), ("n1",), ()]
    assert nodes.choose(bad, "hp-a", now, 0, 9) == ("n1", "n2")  # nobody knows how many there are
