"""Split a softmax into two ranges, for a march whose MatMul takes int8 only.

Most entries of a softmax over hundreds of tokens are near 1 / tokens, and a few are near 1. A single int8 scale either
rounds the many to 0 or clips the few. P = min(P, t) + max(P - t, 0) is exact, and each part has its own scale.
P V = min(P, t) V + max(P - t, 0) V costs one more MatMul, a small part of a transformer's compute. The same holds for
the exponentials of a softmax that is written out (``layout.heads``), whose largest value is 1 in every row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bpudeploy.onnxmodel import attribute, copy_model
from bpudeploy.quantize.onnx_edit import set_nodes
from bpudeploy.quantize.taps import GraphIndex, softmax_input

LIMIT = 1.0 / 16.0
"""At most 16 entries of a row can exceed it."""
_MOST, _LESS = f"softmax.limit.{LIMIT:g}", f"softmax.limit.{-LIMIT:g}"


def split_softmax(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """Return ``model`` with each MatMul that reads a softmax split in two, and how many were split.

    The final Add keeps the names of the MatMul and its output; the products are ``NAME.small`` and ``NAME.large``.
    """
    index = GraphIndex(model)
    nodes, count = [], 0
    for node in model.graph.node:
        side = softmax_input(index, node)
        exponentials = _exponentials(index, node)
        if side is None and exponentials is None:
            nodes.append(node)
            continue
        count += 1
        if side is not None:
            nodes += _split(node, side, node.input[side])
            continue
        assert exponentials is not None
        nodes += _split(node, 0, exponentials.input[0], attribute(exponentials, "perm", ()))
    out = copy_model(model)
    if count:
        read = {name for node in nodes for name in node.input}
        set_nodes(out, (node for node in nodes if node.op_type != "Transpose" or node.output[0] in read))
        for name, value in ((_MOST, np.array(LIMIT)), (_LESS, np.full((1, 1, 1, 1), -LIMIT))):
            out.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    return out, count


def _exponentials(index: GraphIndex, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """Return the Transpose of an Exp that a MatMul reads first, or None."""
    turn = index.producers.get(node.input[0]) if node.op_type == "MatMul" else None
    made = index.producers.get(turn.input[0]) if turn is not None and turn.op_type == "Transpose" else None
    return turn if made is not None and made.op_type == "Exp" else None


def _split(node: onnx.NodeProto, side: int, weights: str, perm: Sequence[int] = ()) -> Iterator[onnx.NodeProto]:
    """Yield two products for the one of ``node``, of parts of ``weights``, transposed by ``perm`` if given."""
    name, values = node.name, node.input[1 - side]
    yield helper.make_node("Clip", [weights, "", _MOST], [f"{name}.low"], name=f"{name}.low")
    yield helper.make_node("Add", [weights, _LESS], [f"{name}.above"], name=f"{name}.above")
    yield helper.make_node("Relu", [f"{name}.above"], [f"{name}.high"], name=f"{name}.high")
    for part, product in ((f"{name}.low", f"{name}.small"), (f"{name}.high", f"{name}.large")):
        read = part
        if perm:
            read = f"{part}.turned"
            yield helper.make_node("Transpose", [part], [read], name=read, perm=perm)
        yield helper.make_node("MatMul", [read, values] if side == 0 else [values, read], [product], name=product)
    yield helper.make_node("Add", [f"{name}.small", f"{name}.large"], [node.output[0]], name=name)
