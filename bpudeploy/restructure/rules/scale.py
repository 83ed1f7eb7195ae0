"""Fold a scalar factor of a MatMul into the weights before it: s · (q kᵀ) = (s q) kᵀ."""

from __future__ import annotations

import numpy as np

from bpudeploy.restructure.graph import Graph, Node
from bpudeploy.restructure.rules.biases import moves_and_producer


def fold_scales(graph: Graph) -> int:
    """Fold each scalar factor of a MatMul into the convolution that computes one side; return how many."""
    readers, count = graph.readers(), 0
    for node in [*graph.nodes.values()]:
        factor = _factor(graph, node)
        product = graph.nodes.get(node.inputs[0]) if factor is not None else None
        if factor is None or product is None or product.op != "MatMul":
            continue
        if len(readers[product.name]) != 1 or node.name in graph.output_names:
            continue
        for side in product.inputs:
            moves, producer = moves_and_producer(graph, readers, side)
            if producer is None:
                continue
            _scale(graph, producer, factor)
            graph.drop_counterparts({producer.name, product.name, *(m.name for m in moves)})
            graph.replace_uses(node.name, product.name)
            del graph.nodes[node.name]
            readers, count = graph.readers(), count + 1
            break
    return count


def _factor(graph: Graph, node: Node) -> float | None:
    """Return s if ``node`` is x · s or x / s with a constant of one element."""
    constant = graph.constants.get(node.inputs[1]) if node.op in ("Mul", "Div") else None
    if constant is None or constant.size != 1:
        return None
    number = float(constant.reshape(()))
    return number if node.op == "Mul" else 1.0 / number


def _scale(graph: Graph, producer: Node, factor: float) -> None:
    for index in range(1, len(producer.inputs)):
        name = graph.unique_name(f"{producer.name}.{'weight' if index == 1 else 'bias'}")
        graph.constants[name] = (graph.constants[producer.inputs[index]].astype(np.float64) * factor).astype(np.float32)
        producer.inputs[index] = name
