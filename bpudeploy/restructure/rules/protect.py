"""Keep the nodes from a square to its root in float: x² needs twice the bits of x."""

from __future__ import annotations

from bpudeploy.restructure.graph import Graph

_INSIDE = frozenset({"Conv", "ReduceMean", "GlobalAveragePool", "Add", "Mul", "Max", "Clip"})
_ENDS = frozenset({"Sqrt", "Reciprocal", "Pow"})


def protect_squares(graph: Graph) -> int:
    """Mark each square, the means after it, and the root; return the number of newly marked nodes."""
    before = sum(node.keep_float for node in graph.nodes.values())
    inside: set[str] = set()
    for node in graph.nodes.values():
        square = node.op == "Mul" and node.inputs[0] == node.inputs[1]
        follows = bool(inside & set(node.inputs))
        if square or (follows and node.op in _INSIDE | _ENDS):
            node.keep_float = True
            if square or node.op in _INSIDE:
                inside.add(node.name)
    return sum(node.keep_float for node in graph.nodes.values()) - before
