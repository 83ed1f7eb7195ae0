"""How a graph falls into BPU subgraphs, and what is handed over between them and the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from bpudeploy.conformance.graph import NodeView
from bpudeploy.conformance.report import Cuts, Device


@dataclass(frozen=True)
class Segments:
    """``of`` maps the index of each BPU node to its subgraph, numbered in the graph's order.

    ``takes`` maps the index of each node to how many tensors it takes over from the other side.
    """

    of: Mapping[int, int]
    takes: Mapping[int, int]
    count: int
    handovers: int
    handover_bytes: int


def segments(nodes: Sequence[NodeView], on_bpu: Sequence[bool]) -> Segments:
    """Group BPU nodes that are connected without leaving the BPU.

    A node's phase is how often the longest way to it changes the device. Connected BPU nodes of one phase
    make one subgraph: so no subgraph waits for a CPU node that waits for it.
    """
    maker = {t.name: i for i, n in enumerate(nodes) if not n.folded for t in n.outputs}
    phase: list[int] = []
    parent = list(range(len(nodes)))
    for i, node in enumerate(nodes):
        sources = _sources(node, maker)
        phase.append(max((phase[s] + (on_bpu[s] != on_bpu[i]) for s in sources), default=0))
        for s in sources:
            if on_bpu[i] and on_bpu[s] and phase[s] == phase[i]:
                parent[_root(parent, i)] = _root(parent, s)
    numbers: dict[int, int] = {}
    of = {
        i: numbers.setdefault(_root(parent, i), len(numbers))
        for i, node in enumerate(nodes)
        if on_bpu[i] and not node.folded
    }
    crossing: dict[tuple[str, bool], int] = {}
    takes: dict[int, int] = {}
    for i, node in enumerate(nodes):
        taken = {} if node.folded else {t.name: t for t in node.features if t.name in maker}
        over = [t for t in taken.values() if on_bpu[maker[t.name]] != on_bpu[i]]
        crossing |= {(t.name, on_bpu[i]): prod(t.shape or (0,)) for t in over}
        if over:
            takes[i] = len(over)
    return Segments(of, takes, len(numbers), len(crossing), sum(crossing.values()))


def _sources(node: NodeView, maker: Mapping[str, int]) -> list[int]:
    return [] if node.folded else [maker[t.name] for t in node.features if t.name in maker]


def _root(parent: list[int], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


def cut(nodes: Sequence[NodeView], devices: Sequence[Device]) -> tuple[Segments, Cuts]:
    """Return the subgraphs, and how the graph is cut with every unknown node off the BPU and, at best, on it.

    What the subgraphs take over is what they take over either way.
    """
    now = segments(nodes, [d is Device.BPU for d in devices])
    best = segments(nodes, [d in (Device.BPU, Device.UNKNOWN) for d in devices])
    certain = {i: min(n, best.takes[i]) for i, n in now.takes.items() if i in best.takes}
    return replace(now, takes=certain), Cuts(
        segments=now.count,
        segments_at_best=best.count,
        handovers=now.handovers,
        handovers_at_best=best.handovers,
        handover_bytes=now.handover_bytes,
    )
