"""Two nodes that compute the same are one: same operator, attributes and inputs."""

from __future__ import annotations

from typing import Any

from bpudeploy.restructure.atoms import Dims, flat
from bpudeploy.restructure.graph import Graph, Node


def share(graph: Graph) -> int:
    """Merge equal nodes; the first one stays."""
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
    """Return a move's layouts with its atoms numbered, so that equal moves of other atoms are equal."""
    if node.source is None or node.target is None:
        return None
    number = {atom: i for i, atom in enumerate(flat(node.source))}

    def numbered(dims: Dims) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(number[a] for a in group) for group in dims)

    return numbered(node.source), numbered(node.target), tuple(a.size for a in flat(node.source))
