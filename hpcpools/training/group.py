"""The nodes of one attempt: who leads, when all are ready, where they meet, and how they ended together.

Slurm starts one entry on each node. The first one is the run's one voice: it claims the attempt and names
its end. They talk through files in the attempt's folder, all atomic, each with one writer; a shared file
system may show them late, hence the patience. One node is a group of one, without any file.

    attempts/N.R/ready-K.json       node K passed its checks
                 rendezvous.json    all did: where the first node listens, and the checkpoint to resume from
                 ended-K.json       how node K ended
                 node-K/            the logs and measurements of node K > 0
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpcpools import atomic
from hpcpools.runs import attempts
from hpcpools.runs.attempts import Place
from hpcpools.runs.directory import RunDirectory
from hpcpools.runs.states import Cause
from hpcpools.training import nodeenv
from hpcpools.training.ending import STOPPED_EXIT, Ending

START = 300.0  # seconds until all nodes' entries are there: Python from a slow file system, different checks
VERIFY = 3600.0  # seconds for the first node to find the checkpoint to resume from: it reads it whole
ENDS = 90.0  # seconds until a node's end is seen: nodes end together, NFS shows a file within 60 s (nfs(5))
STOPS = 60.0  # seconds the others have after one node heeded a warning
LOOK = 0.5  # seconds between two looks at the others, while we wait ...
WATCH = 2.0  # ... and while we train


# What warned the attempt, if it was not the same on all nodes: see requeue.wanted.
_SIGNALS: dict[int | None, int] = {signal.SIGUSR2: 0, signal.SIGTERM: 1}


@dataclass(frozen=True)
class Account:
    """How node ``index`` ended, in its own words."""

    index: int
    node: str
    at: float
    ending: Ending


class Group:
    """The nodes of an attempt as one of them sees them. ``folder``: what this node writes into."""

    def __init__(self, attempt: Path, place: Place, nodes: int) -> None:
        self.attempt, self.place, self.nodes = attempt, place, nodes
        self.folder = attempts.of_node(attempt, place.index)
        self._listener: socket.socket | None = None  # on the first node: where all meet
        self.resume = ""
        self._met = False
        self._told: dict[int, Account] = {}
        self._stopped: float | None = None
        self._next_look = 0.0

    @property
    def listening_fd(self) -> int | None:
        """The first node's open socket, until the training has it."""
        return None if self._listener is None else self._listener.fileno()

    def stop_listening(self) -> None:
        """Close our copy of the socket."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    @property
    def first(self) -> bool:
        """True for the node that speaks for the run."""
        return self.place.index == 0

    def assemble(self, resume: Callable[[], str], cancelled: Callable[[], bool]) -> Ending | None:
        """Wait until every node has passed its checks; the ending of an attempt where one did not.

        ``resume`` tells the checkpoint to go on from, on the first node; the others take its word.
        """
        if self.first:
            self.resume = resume()
        if self.nodes == 1:
            return None
        facts = {"node": self.place.node, "job_id": self.place.job_id}
        atomic.write_json(self.attempt / f"ready-{self.place.index}.json", facts)
        waited_for = self._all_ready if self.first else self._called
        patience = START if self.first else VERIFY
        give_up = time.monotonic() + patience
        while not waited_for():
            if (peer := self.broken()) is not None:
                return after(peer) if not self.first else _of(peer)
            if cancelled():
                return Ending("stopped", STOPPED_EXIT, cause=Cause.CANCELLED)
            if time.monotonic() > give_up:
                error = f"not all of the {self.nodes} nodes were ready within {patience:.0f} s"
                return Ending("failed", STOPPED_EXIT, cause=Cause.LAUNCH_FAILURE, error=error)
            time.sleep(LOOK)
        self._met = True
        return None

    def _all_ready(self) -> bool:
        names = set(os.listdir(self.attempt))
        if not all(f"ready-{index}.json" in names for index in range(self.nodes)):
            return False
        self._listener, host = _listen()
        meeting = {
            "host": host,
            "port": self._listener.getsockname()[1],
            "resume": self.resume,
            "job_id": self.place.job_id,
        }
        atomic.write_json(self.attempt / "rendezvous.json", meeting)
        return True

    def _called(self) -> bool:
        found = self.meeting()
        if found is not None:
            self.resume = str(found["resume"])
        return found is not None

    def meeting(self) -> dict[str, Any] | None:
        """``host``, ``port`` and ``resume`` once the first node has told them."""
        found: dict[str, Any] | None = atomic.read_json(self.attempt / "rendezvous.json")
        return found

    def broken(self) -> Account | None:
        """A node that ended although we have not, so that we cannot go on; None as long as all is well.

        Cheap enough for every turn of a waiting loop. A node that stopped after a warning breaks nothing for
        a while: the warning concerns all.
        """
        if self.nodes == 1 or time.monotonic() < self._next_look:
            return None
        self._next_look = time.monotonic() + WATCH
        ends = [account for account in self._accounts().values() if account.index != self.place.index]
        bad = [account for account in ends if account.ending.outcome in ("failed", "killed")]
        if bad:
            return min(bad, key=lambda account: account.at)
        stopped = [account for account in ends if account.ending.outcome == "stopped"]
        if not stopped:
            return None
        self._stopped = self._stopped or time.monotonic()
        return stopped[0] if time.monotonic() - self._stopped > STOPS else None

    def wait_for_others(self) -> None:
        """Until every other node has ended, or one has failed. Unbounded: they may have more to do than we,
        and a node or an entry that is lost makes Slurm end us."""
        while self.broken() is None and len(self._accounts().keys() - {self.place.index}) < self.nodes - 1:
            time.sleep(LOOK)

    def outcome(self, own: Ending, *, patience: float = ENDS) -> Ending:
        """Tell the others how we ended, and wait for them; on the first node, the ending of the attempt."""
        if self.nodes == 1:
            return own
        mine = Account(self.place.index, self.place.node, time.time(), own)
        facts = {**vars(own), "cause": own.cause.value, "node": mine.node, "at": mine.at}
        atomic.write_json(self.attempt / f"ended-{mine.index}.json", facts)
        if self._met and own.outcome == "completed":
            self.wait_for_others()
        if not (self.first and self._met):
            return own
        give_up = time.monotonic() + patience
        while len(self._accounts()) < self.nodes and time.monotonic() < give_up:
            time.sleep(LOOK)
        folders = [attempts.of_node(self.attempt, index) for index in range(self.nodes)]
        return combine(list(self._told.values()), [attempts.node_name(folder) for folder in folders])

    def _accounts(self) -> dict[int, Account]:
        for name in os.listdir(self.attempt):
            number = name.removeprefix("ended-").removesuffix(".json")
            if name != number and number.isdigit() and int(number) not in self._told:
                facts = atomic.read_json(self.attempt / name)
                if facts is not None:
                    node, at, cause = facts.pop("node"), facts.pop("at"), Cause(facts.pop("cause"))
                    self._told[int(number)] = Account(int(number), node, at, Ending(**facts, cause=cause))
        return self._told


def join(run: RunDirectory, submission: int, place: Place) -> Path | None:
    """Wait for the first node's claim, and make this node's folder; the attempt's folder.

    None if there will be no claim: the run is cancelled, superseded or another job's; or none came in time.
    """
    give_up = time.monotonic() + START
    while (attempt := attempts.claimed(run, submission, place)) is None:
        if attempts.no_claim(run, submission, place) or time.monotonic() > give_up:
            return None
        time.sleep(LOOK)
    folder = attempts.of_node(attempt, place.index)
    folder.mkdir(mode=0o700)
    atomic.write_json(folder / "start.json", {"node": place.node, "pid": place.pid, "at": time.time()})
    return attempt


def combine(accounts: list[Account], names: Sequence[str]) -> Ending:
    """The ending of the attempt, from those of its nodes, of which all ``names`` are given. Pure.

    The first that failed names the cause, before those that it took along, who may only have lost the
    rendezvous; memory beats them all, because the kernel says it. A node that says nothing is lost: neither a
    success nor the user's error.
    """
    by_time = sorted(accounts, key=lambda account: account.at)

    def rank(account: Account) -> tuple[bool, bool]:
        cause = account.ending.cause
        return cause is not Cause.OUT_OF_MEMORY, cause is Cause.LAUNCH_FAILURE

    cancelled = [account for account in by_time if account.ending.cause is Cause.CANCELLED]
    if cancelled:
        return cancelled[0].ending
    stopped = [account for account in by_time if account.ending.outcome == "stopped"]
    stopped.sort(key=lambda account: _SIGNALS.get(account.ending.signal, 2))
    warned = [account for account in stopped if account.ending.signal]
    bad = sorted((a for a in by_time if a.ending.outcome in ("failed", "killed")), key=rank)
    if len(accounts) < len(names):
        if warned:
            return warned[0].ending
        told = {account.index for account in accounts}
        silent = ", ".join(name for index, name in enumerate(names) if index not in told)
        error = f"node {silent} did not say how it ended: it is lost, or our process there was killed"
        return Ending("killed", STOPPED_EXIT, cause=Cause.NODE_FAILURE, error=error)
    if bad or stopped:
        return _of((bad or stopped)[0])
    return next(account.ending for account in accounts if account.index == 0)


def _of(account: Account) -> Ending:
    """A node's ending as the attempt's: its error names the node."""
    ending = account.ending
    if not ending.error or account.node in ending.error:
        return ending
    return replace(ending, error=f"node {account.node}: {ending.error}")


def after(peer: Account) -> Ending:
    """Our own ending when another node's ended us: not a cause of its own."""
    return Ending("stopped", peer.ending.exit_code, error=f"node {peer.node} ended first")


def _listen() -> tuple[socket.socket, str]:
    """A socket on a free port of the address that the other nodes reach us at; with the address.

    A loopback address only if there is no other: then all nodes are one machine.
    """
    found = []
    for name in nodeenv.addresses():
        with contextlib.suppress(OSError):
            found += [
                (family, where[0])
                for family, _, _, _, where in socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM)
            ]
    found.sort(key=lambda each: ipaddress.ip_address(str(each[1]).partition("%")[0]).is_loopback)
    for family, host in found:
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.bind((host, 0))
            listener.listen(socket.SOMAXCONN)
        except OSError:
            listener.close()
            continue
        return listener, str(host)
    raise OSError("no address of this node can be listened on")
