"""Moves of values, followed value by value: what a chain of moves does, whatever its steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bpudeploy.restructure.graph import Graph, Node

_MOVES = frozenset({"Reshape", "Transpose", "Slice", "Concat"})
Indices = NDArray[np.int64]
"""Numbers of the values of a tensor, in the shape of another."""


def ends(graph: Graph) -> list[tuple[str, str]]:
    """Return the results of moves that something else reads, each with the only tensor whose values it has."""
    sources: dict[str, str] = {}
    for node in graph.nodes.values():
        found = {sources.get(name, name) for name in _data(graph, node)} if node.op in _MOVES else set()
        if len(found) == 1 and not found & graph.constants.keys():
            (sources[node.name],) = found
    readers, outputs = graph.readers(), graph.output_names
    return [
        (name, source)
        for name, source in sources.items()
        if name not in outputs and any(sources.get(r.name) != source for r in readers.get(name, []))
    ]


def _data(graph: Graph, node: Node) -> list[str]:
    return node.inputs if node.op == "Concat" else node.inputs[:1]


def indices(graph: Graph, name: str, source: str) -> Indices:
    """Return which value of ``source`` each value of ``name`` is."""
    found = {source: numbered(graph.shape(source))}

    def of(tensor: str) -> Indices:
        if tensor not in found:
            node = graph.nodes[tensor]
            found[tensor] = moved(graph, node, [of(one) for one in _data(graph, node)])
        return found[tensor]

    return of(name)


def moved(graph: Graph, node: Node, given: Sequence[Indices]) -> Indices:
    """Return what a move makes of its inputs."""
    match node.op:
        case "Concat":
            return np.concatenate(given, axis=node.attributes["axis"])
        case "Transpose":
            return given[0].transpose(node.attributes["perm"])
        case "Reshape":
            return given[0].reshape(node.shape)
        case _:
            bounds = [graph.constants[name].tolist() for name in node.inputs[1:]]
            starts, stops, axes, steps = (*bounds, *[[]] * 2)[:4]
            cuts = [slice(None)] * 4
            for i, (start, stop) in enumerate(zip(starts, stops, strict=True)):
                cuts[axes[i] if axes else i] = slice(start, stop, steps[i] if steps else 1)
            return given[0][tuple(cuts)]


def numbered(shape: Sequence[int]) -> Indices:
    """Return the numbers of the values of a tensor."""
    return np.arange(int(np.prod(shape))).reshape(shape)
