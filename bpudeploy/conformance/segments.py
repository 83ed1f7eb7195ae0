"""Partition a graph into BPU subgraphs, and count the tensors handed over between them and the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from bpudeploy.conformance.graph import NodeView


@dataclass(frozen=True)
class Segments:
    """``segment_of`` maps the index of each BPU node to its subgraph, numbered in graph order.

    ``crossing_inputs`` maps the index of a node to how many tensors it reads from the other device.
    """

    segment_of: Mapping[int, int]
    crossing_inputs: Mapping[int, int]
    count: int
    handovers: int
    handover_bytes: int


def bpu_segments(nodes: Sequence[NodeView], on_bpu: Sequence[bool]) -> Segments:
    """Group BPU nodes that are connected without leaving the BPU.

    A node's phase is the largest number of device changes on a path to it. Connected BPU nodes of one phase form
    a subgraph, so no subgraph waits for a CPU node that waits for it.
    """
    producer = {t.name: i for i, n in enumerate(nodes) if not n.folded for t in n.outputs}
    phase: list[int] = []
    parent = list(range(len(nodes)))
    for i, node in enumerate(nodes):
        phase.append(max((phase[s] + (on_bpu[s] != on_bpu[i]) for s in node.sources), default=0))
        for s in node.sources:
            if on_bpu[i] and on_bpu[s] and phase[s] == phase[i]:
                parent[_root(parent, i)] = _root(parent, s)
    numbers: dict[int, int] = {}
    segment_of = {
        i: numbers.setdefault(_root(parent, i), len(numbers))
        for i, node in enumerate(nodes)
        if on_bpu[i] and not node.folded
    }
    crossing: dict[tuple[str, bool], int] = {}
    crossing_inputs: dict[int, int] = {}
    for i, node in enumerate(nodes):
        read = {} if node.folded else {t.name: t for t in node.features if t.name in producer}
        over = [t for t in read.values() if on_bpu[producer[t.name]] != on_bpu[i]]
        crossing |= {(t.name, on_bpu[i]): prod(t.shape or (0,)) for t in over}
        if over:
            crossing_inputs[i] = len(over)
    return Segments(segment_of, crossing_inputs, len(numbers), len(crossing), sum(crossing.values()))


def _root(parent: list[int], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i
