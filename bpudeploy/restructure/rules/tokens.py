"""Fold position embeddings into constant class tokens: [t, x] + p = [t + p_t, x + p_x]."""

from __future__ import annotations

import numpy as np

from bpudeploy.restructure.graph import Graph, Node


def prepare_tokens(graph: Graph) -> int:
    """Move the Add of a constant before a Concat with constant parts; return how often."""
    readers, count = graph.readers(), 0
    for node in [*graph.nodes.values()]:
        concat = graph.nodes.get(node.inputs[0]) if node.op == "Add" and node.inputs[1] in graph.constants else None
        if concat is None or concat.op != "Concat" or len(readers[concat.name]) != 1:
            continue
        if not any(n in graph.constants for n in concat.inputs):
            continue
        axis, start, parts, before = concat.attributes["axis"], 0, [], []
        table = np.broadcast_to(graph.constants[node.inputs[1]], node.shape).astype(np.float64)
        for name in concat.inputs:
            shape = graph.shape(name)
            piece = table.take(range(start, start + shape[axis]), axis=axis)
            start += shape[axis]
            constant = graph.unique_name(f"{node.name}.part")
            if name in graph.constants:
                graph.constants[constant] = (graph.constants[name] + piece).astype(np.float32)
                parts.append(constant)
            else:
                graph.constants[constant] = piece.astype(np.float32)
                before.append(Node("Add", graph.unique_name(f"{node.name}.position"), [name, constant], shape))
                parts.append(before[-1].name)
        graph.insert_before(node.name, before)
        graph.nodes[node.name] = Node("Concat", node.name, parts, node.shape, {"axis": axis})
        count += 1
    return count
