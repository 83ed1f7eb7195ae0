"""Common subexpression elimination: merge nodes of equal operator, attributes and inputs."""

from __future__ import annotations

from typing import Any

from bpudeploy.restructure.atoms import Dims, flat
from bpudeploy.restructure.graph import MOVE, Graph, Node


def merge_equal_nodes(graph: Graph) -> int:
    """Merge equal nodes into the first; return the number of removed nodes."""
    first: dict[Any, str] = {}
    renamed: dict[str, str] = {}
    for node in [*graph.nodes.values()]:
        node.inputs = [renamed.get(n, n) for n in node.inputs]
        key = (node.op, tuple(node.inputs), node.shape, repr(sorted(node.attributes.items())), _layout(node))
        if key in first and node.name not in graph.output_names:
            renamed[node.name] = first[key]
            graph.nodes[first[key]].keep_float |= node.keep_float
            del graph.nodes[node.name]
        else:
            first.setdefault(key, node.name)
    return len(renamed)


def _layout(node: Node) -> Any:
    """Return the layouts of a Move with its atoms numbered, so that Moves over different atoms compare equal."""
    if node.op != MOVE:
        return None
    source, target = node.layouts
    number = {atom: i for i, atom in enumerate(flat(source))}

    def numbered(dims: Dims) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(number[a] for a in group) for group in dims)

    return numbered(source), numbered(target), tuple(atom.size for atom in number)
