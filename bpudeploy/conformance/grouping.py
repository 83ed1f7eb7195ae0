"""Nodes that say the same, together: for tables, and for the rows of the picture."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bpudeploy.conformance.report import Cost, Device, Hint, NodePlacement

_ROW_NODES = 5
"""A numbered part of the network has a row of its own from this many nodes on."""
_DEVICES = tuple(Device)


@dataclass(frozen=True)
class Group:
    """Nodes of one operator on one device for one reason; ``variants`` is how many values the reason was seen with."""

    op: str
    device: Device
    nodes: int
    reason: str
    variants: int
    not_checked: tuple[str, ...]
    hint: Hint | None
    confidence: str
    cost: Cost


def groups(nodes: Sequence[NodePlacement]) -> tuple[Group, ...]:
    """Return the groups: what is off the BPU first, then by number of nodes. Folded nodes are left out."""
    found: dict[tuple[str, Device, str, tuple[str, ...]], list[NodePlacement]] = {}
    for node in nodes:
        if node.device is not Device.FOLDED:
            alike = tuple(map(_alike, node.not_checked))
            found.setdefault((node.op, node.device, _alike(node.reason), alike), []).append(node)
    made = [
        Group(
            op=op,
            device=device,
            nodes=len(members),
            reason=members[0].reason,
            variants=len({m.reason for m in members}),
            not_checked=members[0].not_checked,
            hint=members[0].hint,
            confidence=members[0].confidence,
            cost=sum((m.cost for m in members), Cost()),
        )
        for (op, device, _, _), members in found.items()
    ]
    return tuple(sorted(made, key=lambda g: (g.device is Device.BPU, _DEVICES.index(g.device), -g.nodes, g.op)))


def _alike(text: str) -> str:
    return re.sub(r"\d+(x\d+)*", "#", text)


@dataclass(frozen=True)
class Row:
    """A part of the network, such as ``blocks.3``, with its nodes in the graph's order."""

    name: str
    nodes: tuple[NodePlacement, ...]


def rows(nodes: Sequence[NodePlacement]) -> tuple[Row, ...]:
    """Return the network's parts in order: its numbered blocks where there are, else its first names."""
    counts = Counter(prefix for node in nodes for prefix in _prefixes(node))
    found: dict[str, list[NodePlacement]] = {}
    loose = ""
    for node in nodes:
        name = next((p for p in _prefixes(node) if counts[p] >= _ROW_NODES), "")
        if name:
            loose = ""
        else:
            name = loose = loose or f"{(node.scope or node.op).split('.')[0]} ..."
        found.setdefault(name, []).append(node)
    return tuple(Row(_only(name, members), tuple(members)) for name, members in found.items())


def _prefixes(node: NodePlacement) -> list[str]:
    """Return the names of the parts that a node is in, the numbered ones first, each longest first."""
    parts = node.scope.split(".")
    numbered = [".".join(parts[: i + 1]) for i in range(len(parts) - 1, 0, -1) if parts[i].isdecimal()]
    return [*numbered, parts[0]] if parts[0] else numbered


def _only(name: str, members: Sequence[NodePlacement]) -> str:
    """Return the name of a row of unnamed leftovers without its dots where it holds one name only."""
    first = name.removesuffix(" ...")
    return first if all((m.scope or m.op).split(".")[0] == first for m in members) else name
