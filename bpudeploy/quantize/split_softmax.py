"""Split a softmax into two ranges, for a march whose MatMul takes int8 only.

Most entries of a softmax over hundreds of tokens are near 1 / tokens, and a few are near 1. A single int8 scale either
rounds the many to 0 or clips the few. P = min(P, t) + max(P - t, 0) is exact, and each part has its own scale.
P V = min(P, t) V + max(P - t, 0) V costs one more MatMul, a small part of a transformer's compute. The same holds for
the exponentials of a softmax that is written out (``layout.heads``), whose largest value is exp(5.6) in every row
(``exponents``).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import onnx
from onnx import helper

from bpudeploy.onnxmodel import attribute, copy_model
from bpudeploy.quantize.attentions import find_quotient
from bpudeploy.quantize.exponents import RAISED, raised
from bpudeploy.quantize.onnx_edit import put_constant, set_nodes
from bpudeploy.quantize.taps import GraphIndex, softmax_input

LIMIT = 1.0 / 16.0
"""At most 16 entries of a row can exceed it."""
_RAISED_LIMIT = LIMIT * math.exp(RAISED)


def split_softmax(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """Return ``model`` with each MatMul that reads a softmax split in two, and how many were split.

    The final Add keeps the names of the MatMul and its output; the products are ``NAME.small`` and ``NAME.large``.
    """
    index, out, exponents = GraphIndex(model), copy_model(model), raised(model)
    nodes: list[onnx.NodeProto] = []
    count = 0
    for node in model.graph.node:
        side, turn = softmax_input(index, node), _raised_weights(index, node, exponents)
        if side is not None:
            nodes += _split(out, node, side, node.input[side], LIMIT)
        elif turn is not None:
            nodes += _split(out, node, 0, turn.input[0], _RAISED_LIMIT, attribute(turn, "perm", ()))
        else:
            nodes.append(node)
            continue
        count += 1
    read = {name for node in nodes for name in node.input}
    set_nodes(out, (node for node in nodes if node.op_type != "Transpose" or node.output[0] in read))
    return out, count


def _raised_weights(index: GraphIndex, node: onnx.NodeProto, exponents: Collection[str]) -> onnx.NodeProto | None:
    """Return the Transpose of raised exponentials that a MatMul reads, or None."""
    found = find_quotient(index, node)
    if found is None or index.producers[found.exponentials].input[0] not in exponents:
        return None
    turn = index.producers[node.input[0]]
    return turn if turn.op_type == "Transpose" and turn.input[0] == found.exponentials else None


def _split(
    model: onnx.ModelProto, node: onnx.NodeProto, side: int, weights: str, limit: float, perm: Sequence[int] = ()
) -> Iterator[onnx.NodeProto]:
    """Yield two products for the one of ``node``, of parts of ``weights``, transposed by ``perm`` if given."""
    name, values = node.name, node.input[1 - side]
    most = put_constant(model, f"softmax.limit.{limit:g}", np.array(limit, np.float32))
    less = put_constant(model, f"softmax.limit.{-limit:g}", np.full((1, 1, 1, 1), -limit, np.float32))
    yield helper.make_node("Clip", [weights, "", most], [f"{name}.low"], name=f"{name}.low")
    yield helper.make_node("Add", [weights, less], [f"{name}.above"], name=f"{name}.above")
    yield helper.make_node("Relu", [f"{name}.above"], [f"{name}.high"], name=f"{name}.high")
    for part, product in ((f"{name}.low", f"{name}.small"), (f"{name}.high", f"{name}.large")):
        read = part
        if perm:
            read = f"{part}.turned"
            yield helper.make_node("Transpose", [part], [read], name=read, perm=perm)
        yield helper.make_node("MatMul", [read, values] if side == 0 else [values, read], [product], name=product)
    yield helper.make_node("Add", [f"{name}.small", f"{name}.large"], [node.output[0]], name=name)
