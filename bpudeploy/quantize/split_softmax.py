"""Split a softmax into two ranges, for a march whose MatMul takes int8 only.

Most entries of a softmax over hundreds of tokens are near 1 / tokens, and a few are near 1. A single int8 scale either
rounds the many to 0 or clips the few. P = min(P, t) + (P - min(P, t)) is exact, and each part has its own scale.
P V = min(P, t) V + (P - min(P, t)) V costs one more MatMul, a small part of a transformer's compute.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bpudeploy.onnxmodel import copy_model
from bpudeploy.quantize.onnx_edit import set_nodes
from bpudeploy.quantize.taps import GraphIndex, softmax_input

LIMIT = 1.0 / 16.0
"""At most 16 entries of a row can exceed it."""


def split_softmax(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """Return ``model`` with each MatMul that reads a softmax split in two, and how many were split.

    The final Add keeps the names of the MatMul and its output; the products are ``NAME.small`` and ``NAME.large``.
    """
    index = GraphIndex(model)
    limit = f"softmax.limit.{LIMIT:g}"
    nodes, count = [], 0
    for node in model.graph.node:
        side = softmax_input(index, node)
        if side is None:
            nodes.append(node)
            continue
        count += 1
        probabilities, values, name = node.input[side], node.input[1 - side], node.name
        low, high = ([part, values] if side == 0 else [values, part] for part in (f"{name}.low", f"{name}.high"))
        nodes += [
            helper.make_node("Clip", [probabilities, "", limit], [f"{name}.low"], name=f"{name}.low"),
            helper.make_node("Sub", [probabilities, f"{name}.low"], [f"{name}.high"], name=f"{name}.high"),
            helper.make_node("MatMul", low, [f"{name}.small"], name=f"{name}.small"),
            helper.make_node("MatMul", high, [f"{name}.large"], name=f"{name}.large"),
            helper.make_node("Add", [f"{name}.small", f"{name}.large"], [node.output[0]], name=name),
        ]
    out = copy_model(model)
    if count:
        set_nodes(out, nodes)
        out.graph.initializer.append(numpy_helper.from_array(np.array(LIMIT, np.float32), limit))
    return out, count
