"""Class tokens and positions are prepared offline: [t, x] + p = [t + p_t, x + p_x] where t and p are constants."""

from __future__ import annotations

import numpy as np

from bpudeploy.restructure.graph import Graph, Node


def prepare_tokens(graph: Graph) -> int:
    """Add constants to the parts of a Concat before it, where some parts are constants; return how often."""
    readers, count = graph.readers(), 0
    for node in [*graph.nodes.values()]:
        joined = graph.nodes.get(node.inputs[0]) if node.op == "Add" and node.inputs[1] in graph.constants else None
        if joined is None or joined.op != "Concat" or len(readers[joined.name]) != 1:
            continue
        if not any(n in graph.constants for n in joined.inputs):
            continue
        axis, at, parts, before = joined.attributes["axis"], 0, [], []
        table = np.broadcast_to(graph.constants[node.inputs[1]], node.shape).astype(np.float64)
        for name in joined.inputs:
            shape = graph.shape(name)
            piece = table.take(range(at, at + shape[axis]), axis=axis)
            at += shape[axis]
            constant = graph.fresh(f"{node.name}.part")
            if name in graph.constants:
                graph.constants[constant] = (graph.constants[name] + piece).astype(np.float32)
                parts.append(constant)
            else:
                graph.constants[constant] = piece.astype(np.float32)
                made = graph.fresh(f"{node.name}.position")
                before.append(Node("Add", made, [name, constant], shape))
                parts.append(made)
        graph.insert_before(node.name, before)
        graph.nodes[node.name] = Node("Concat", node.name, parts, node.shape, {"axis": axis})
        count += 1
    return count
