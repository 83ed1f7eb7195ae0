"""Fold the biases of keys and values.

Key: q·(k + b) = q·k + q·b is a constant per query, which softmax over the keys cancels: drop b.
Value: softmax rows sum to 1, so A(v + b) = Av + b; fold it into the projection's bias, b' = b + W_proj b_v.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bpudeploy.restructure.graph import MOVE, Graph, Node
from bpudeploy.restructure.moves import move_array

_BEFORE_SOFTMAX = frozenset({"Add", "Sub", "Mul", "Div", "Conv"})


def drop_key_biases(graph: Graph) -> int:
    """Remove the biases of convolutions that compute keys; return how many."""
    readers, count = graph.readers(), 0
    for node in graph.nodes.values():
        product, between = _product_before(graph, readers, node) if node.op == "Softmax" else (None, [])
        moves, producer = moves_and_producer(graph, readers, product.inputs[1]) if product is not None else ([], None)
        if product is None or producer is None or len(producer.inputs) < 3:
            continue
        if _moved(_column(graph, producer), moves).shape[3] != 1:
            continue  # attention over channels: the bias differs per column and does not cancel
        producer.inputs = producer.inputs[:2]
        graph.drop_counterparts({producer.name, product.name, *(m.name for m in moves), *between})
        count += 1
    return count


def _product_before(graph: Graph, readers: dict[str, list[Node]], softmax: Node) -> tuple[Node | None, list[str]]:
    """Return the MatMul before a softmax, if the nodes between preserve a constant added to whole rows, and those."""
    name, between = softmax.inputs[0], list[str]()
    for _ in range(6):
        node = graph.nodes.get(name)
        if node is None or len(readers.get(name, ())) != 1 or name in graph.output_names:
            break
        if node.op == "MatMul":
            return node, between
        sources = [n for n in node.inputs[: 1 if node.op == "Conv" else 2] if n in graph.nodes]
        if node.op not in _BEFORE_SOFTMAX or not _keeps_rows(graph, node) or len(sources) != 1:
            break
        between.append(name)
        name = sources[0]
    return None, []


def _keeps_rows(graph: Graph, node: Node) -> bool:
    """Return whether ``node`` maps a shift constant along axis 3 to one constant along axis 3."""
    if node.op == "Conv":
        return node.attributes["kernel_shape"] == [1, 1] and not any(node.attributes["pads"])
    if node.op in ("Mul", "Div"):
        return any(n in graph.constants and graph.shape(n)[3] == 1 for n in node.inputs)
    return True


def moves_and_producer(graph: Graph, readers: dict[str, list[Node]], name: str) -> tuple[list[Node], Node | None]:
    """Return the moves before ``name`` and the convolution before those, if none has another reader."""
    moves: list[Node] = []
    node = graph.nodes.get(name)
    while node is not None and len(readers.get(node.name, ())) == 1 and node.name not in graph.output_names:
        if node.op == "Conv":
            return moves[::-1], node
        if node.op != MOVE:
            break
        moves.append(node)
        node = graph.nodes.get(node.inputs[0])
    return [], None


def move_value_biases(graph: Graph) -> int:
    """Move the biases of convolutions that compute values into the projection; return how many."""
    readers, count = graph.readers(), 0
    for node in [*graph.nodes.values()]:
        side = _values(graph, node) if node.op == "MatMul" else None
        moves, producer = moves_and_producer(graph, readers, node.inputs[side]) if side is not None else ([], None)
        if side is None or producer is None or len(producer.inputs) < 3:
            continue
        shift = _moved(_column(graph, producer), moves)
        after, projection = _projection(graph, readers, node)
        if projection is None or shift.shape[2 if side == 1 else 3] != 1:
            continue
        shift = _moved(shift, after)
        if shift.shape[0] != 1 or shift.shape[2:] != (1, 1):
            continue
        _add_to_bias(graph, projection, shift.reshape(-1))
        producer.inputs = producer.inputs[:2]
        graph.drop_counterparts({producer.name, node.name, *(m.name for m in (*moves, *after))})
        count += 1
    return count


def _values(graph: Graph, product: Node) -> int | None:
    """Return the index of V in A V, or in its transpose V' A'; None if A is not a softmax over the keys."""
    left, right = (graph.nodes.get(name) for name in product.inputs)
    if left is not None and left.op == "Softmax":
        return 1
    if right is None or right.op != MOVE:
        return None
    weights = graph.nodes.get(right.inputs[0])
    source, target = right.layouts
    return 0 if weights is not None and weights.op == "Softmax" and target[2] == source[3] else None


def _column(graph: Graph, producer: Node) -> NDArray[np.float64]:
    """Return the bias of ``producer`` as (1, C, 1, 1)."""
    return graph.constants[producer.inputs[2]].astype(np.float64).reshape(1, -1, 1, 1)


def _moved(array: NDArray[np.float64], moves: list[Node]) -> NDArray[np.float64]:
    for move in moves:
        array = move_array(array, *move.layouts).astype(np.float64)
    return array


def _projection(graph: Graph, readers: dict[str, list[Node]], product: Node) -> tuple[list[Node], Node | None]:
    moves: list[Node] = []
    for node in graph.chain(product.name, readers):
        if node.op == MOVE:
            moves.append(node)
            continue
        plain = node.op == "Conv" and node.attributes["group"] == 1 and not any(node.attributes["pads"])
        return moves, node if plain and node.inputs[0] == (moves[-1] if moves else product).name else None
    return moves, None


def _add_to_bias(graph: Graph, projection: Node, shift: NDArray[np.float64]) -> None:
    """Add W · ``shift`` to the bias of ``projection``."""
    weight = graph.constants[projection.inputs[1]]
    bias = graph.constants[projection.inputs[2]].astype(np.float64) if len(projection.inputs) > 2 else 0.0
    added = bias + np.einsum("oihw,i->o", weight, shift)
    name = graph.unique_name(f"{projection.name}.bias")
    graph.constants[name] = added.astype(np.float32)
    projection.inputs = [*projection.inputs[:2], name]
