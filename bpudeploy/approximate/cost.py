"""The computational cost of a graph."""

from __future__ import annotations

from math import prod

from bpudeploy.restructure.graph import Graph


def multiply_adds(graph: Graph) -> int:
    """Return the multiply-adds of all Conv and MatMul nodes; other operators are not counted.

    Conv: outputs · input channels per group · kernel size. MatMul: outputs · contracted length.
    """
    total = 0
    for node in graph.nodes.values():
        if node.op == "Conv":
            total += prod(node.shape) * prod(graph.shape(node.inputs[1])[1:])
        elif node.op == "MatMul":
            total += prod(node.shape) * graph.shape(node.inputs[0])[3]
    return total
