"""Group nodes: by equal placement for tables, by part of the network for the picture."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bpudeploy.conformance.report import Cost, Device, NodePlacement

_PART_NODES = 5
"""A numbered part of the network has its own row from this many nodes on."""
_DEVICES = tuple(Device)


@dataclass(frozen=True)
class NodeGroup:
    """Nodes of one operator on one device for one reason; ``variants`` counts its reasons, numbers included."""

    op: str
    device: Device
    nodes: int
    reason: str
    variants: int
    not_checked: tuple[str, ...]
    cost: Cost


def group_nodes(nodes: Sequence[NodePlacement]) -> tuple[NodeGroup, ...]:
    """Return the groups without folded nodes: those off the BPU first, then by number of nodes."""
    found: dict[tuple[str, Device, str, tuple[str, ...]], list[NodePlacement]] = {}
    for node in nodes:
        if node.device is not Device.FOLDED:
            unchecked = tuple(map(_without_numbers, node.not_checked))
            found.setdefault((node.op, node.device, _without_numbers(node.reason), unchecked), []).append(node)
    made = [
        NodeGroup(
            op=op,
            device=device,
            nodes=len(members),
            reason=members[0].reason,
            variants=len({m.reason for m in members}),
            not_checked=members[0].not_checked,
            cost=sum((m.cost for m in members), Cost()),
        )
        for (op, device, _, _), members in found.items()
    ]
    return tuple(sorted(made, key=lambda g: (g.device is Device.BPU, _DEVICES.index(g.device), -g.nodes, g.op)))


def _without_numbers(text: str) -> str:
    return re.sub(r"\d+(x\d+)*", "#", text)


def network_parts(nodes: Sequence[NodePlacement]) -> list[tuple[str, list[NodePlacement]]]:
    """Return the network's parts, such as ``blocks.3``, and their nodes: its numbered blocks, else its modules."""
    counts = Counter(prefix for node in nodes for prefix in _prefixes(node))
    found: dict[str, list[NodePlacement]] = {}
    loose = ""
    for node in nodes:
        name = next((p for p in _prefixes(node) if counts[p] >= _PART_NODES), "")
        if name:
            loose = ""
        else:
            name = loose = loose or f"{(node.scope or node.op).split('.')[0]} ..."
        found.setdefault(name, []).append(node)
    return [(_title(name, members), members) for name, members in found.items()]


def _prefixes(node: NodePlacement) -> list[str]:
    """Return the parts that contain a node: the numbered ones, longest first, then the top-level one."""
    parts = node.scope.split(".")
    numbered = [".".join(parts[: i + 1]) for i in range(len(parts) - 1, 0, -1) if parts[i].isdecimal()]
    return [*numbered, parts[0]] if parts[0] else numbered


def _title(name: str, members: Sequence[NodePlacement]) -> str:
    """Return the name of a part; drop the dots if all its nodes share the name."""
    first = name.removesuffix(" ...")
    return first if all((m.scope or m.op).split(".")[0] == first for m in members) else name
