"""The fake's sinfo, and how nodes and partitions are shown: grouped by what is alike, as Slurm does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hpcpools.errors import UsageError
from hpcpools.testing import placement
from hpcpools.testing.cluster import Node, Partition, hostlist
from hpcpools.testing.formats import Column, clock, long_layout, short_layout
from hpcpools.testing.words import parse, values
from hpcpools.testing.world import World

_VALUES = {"format": "o", "Format": "O", "nodes": "n", "partition": "p", "states": "t"}
_FLAGS = {"all": "a", "exact": "e", "noheader": "h", "Node": "N"}
_DEFAULT = "%9P %.5a %.10l %.6D %.6t %N"
_COMPACT = {"allocated": "alloc", "mixed": "mix", "draining": "drng", "drained": "drain"}


@dataclass(frozen=True)
class Kind:
    """Nodes of one partition that a line of sinfo stands for."""

    world: World
    partition: Partition
    nodes: tuple[Node, ...]

    @property
    def node(self) -> Node:
        """Any of them: they are alike in what was asked for."""
        return self.nodes[0]


def state(world: World, node: Node) -> str:
    """``idle``, ``mixed``, ``allocated``, ``draining``, ``drained``, ``down*``."""
    cpus, memory, _ = placement.used(world, node)
    away = world.away.get(node.name, ("", ""))[0]
    if away == "drain":
        return "draining" if cpus else "drained"
    if away:
        return away
    return "allocated" if cpus >= node.cpus else "mixed" if cpus or memory else "idle"


def gres(node: Node) -> str:
    """``gpu:4``."""
    return f"gpu:{node.gpus}" if node.gpus else "(null)"


def _shown(partition: Partition) -> str:
    return partition.name + "*" * partition.default


def _reason(kind: Kind) -> str:
    return kind.world.away.get(kind.node.name, ("", ""))[1] or "none"


def _compact(kind: Kind) -> str:
    word = state(kind.world, kind.node)
    return _COMPACT.get(word, word)


FIELDS: dict[str, Callable[[Kind], str]] = {
    "available": lambda kind: "up",
    "cpus": lambda kind: str(kind.node.cpus),
    "defaulttime": lambda kind: "n/a",
    "gres": lambda kind: gres(kind.node),
    "memory": lambda kind: str(kind.node.memory),
    "nodelist": lambda kind: hostlist([node.name for node in kind.nodes]),
    "nodes": lambda kind: str(len(kind.nodes)),
    "partition": lambda kind: _shown(kind.partition),
    "reason": _reason,
    "statecompact": _compact,
    "statelong": lambda kind: state(kind.world, kind.node),
    "time": lambda kind: "infinite" if kind.partition.max_time is None else clock(kind.partition.max_time),
}
LETTERS = {
    "P": "partition", "R": "partition", "a": "available", "l": "time", "D": "nodes", "t": "statecompact",
    "T": "statelong", "N": "nodelist", "c": "cpus", "m": "memory", "G": "gres", "E": "reason",
}  # fmt: skip
_HEADS = {"available": "AVAIL", "time": "TIMELIMIT", "statecompact": "STATE", "statelong": "STATE"}


def sinfo(world: World, words: Sequence[str]) -> int:
    """One call; its exit code."""
    asked, _ = parse(words, _VALUES, _FLAGS)
    if "states" in asked:
        raise UsageError("unrecognized option '--states'", hint="the fake Slurm does not know it")
    head, columns = _layout(asked)
    kinds = _kinds(world, asked, columns)
    if "noheader" not in asked:
        print(
            head + "".join(column.write(_HEADS.get(column.name, column.name.upper())) for column in columns)
        )
    for kind in kinds:
        print(head + "".join(column.write(FIELDS[column.name](kind)) for column in columns))
    return 0


def _layout(asked: Mapping[str, str]) -> tuple[str, list[Column]]:
    if "Format" in asked:
        return "", long_layout(asked["Format"], FIELDS)
    return short_layout(asked.get("format", _DEFAULT), LETTERS)


def _kinds(world: World, asked: Mapping[str, str], columns: Sequence[Column]) -> list[Kind]:
    """Nodes whose lines would be equal share one; with ``-N`` each has its own."""
    alike = [column.name for column in columns if column.name not in ("nodes", "nodelist", "partition")]
    wanted = list(values(asked.get("partition", "")))
    names = list(values(asked.get("nodes", "")))
    found: list[Kind] = []
    for partition in world.cluster.partitions:
        groups: dict[tuple[str, ...], list[Node]] = {}
        for node in world.cluster.of(partition):
            if (wanted and partition.name not in wanted) or (names and node.name not in names):
                continue
            alone = Kind(world, partition, (node,))
            key = tuple(FIELDS[name](alone) for name in alike)
            groups.setdefault((*key, node.name) if "Node" in asked else key, []).append(node)
        found += [Kind(world, partition, tuple(nodes)) for nodes in groups.values()]
    return found
