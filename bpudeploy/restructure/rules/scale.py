"""One number times a product goes into the weights of a factor: s · (q kᵀ) = (s q) kᵀ."""

from __future__ import annotations

import numpy as np

from bpudeploy.restructure.graph import Graph, Node
from bpudeploy.restructure.rules.biases import made_by


def fold_scales(graph: Graph) -> int:
    """Fold each scalar factor of a MatMul into the convolution that makes one side; return how many."""
    readers, count = graph.readers(), 0
    for node in [*graph.nodes.values()]:
        factor = _factor(graph, node)
        product = graph.nodes.get(node.inputs[0]) if factor is not None else None
        if (
            product is None
            or product.op != "MatMul"
            or len(readers[product.name]) != 1
            or node.name in graph.output_names
        ):
            continue
        for side in product.inputs:
            moves, maker = made_by(graph, readers, side)
            if maker is None or factor is None:
                continue
            _scale(graph, maker, factor)
            changed = {maker.name, product.name, *(m.name for m in moves)}
            graph.twins = [t for t in graph.twins if t.output.name not in changed]
            graph.rename_reads(node.name, product.name)
            del graph.nodes[node.name]
            readers, count = graph.readers(), count + 1
            break
    return count


def _factor(graph: Graph, node: Node) -> float | None:
    """Return s where ``node`` is x · s or x / s with a constant of one number."""
    if (
        node.op not in ("Mul", "Div")
        or node.inputs[1] not in graph.constants
        or graph.constants[node.inputs[1]].size != 1
    ):
        return None
    number = float(graph.constants[node.inputs[1]].reshape(()))
    return number if node.op == "Mul" else 1.0 / number


def _scale(graph: Graph, maker: Node, factor: float) -> None:
    for index in range(1, len(maker.inputs)):
        name = graph.fresh(f"{maker.name}.{'weight' if index == 1 else 'bias'}")
        graph.constants[name] = (graph.constants[maker.inputs[index]].astype(np.float64) * factor).astype(np.float32)
        maker.inputs[index] = name
