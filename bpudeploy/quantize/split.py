"""A softmax in two ranges, for a march whose MatMul takes int8 only.

Most of a softmax over hundreds of tokens is near 1 / tokens, and a few entries near 1: one int8 scale rounds either
the many to 0 or cuts the few. P = min(P, t) + (P - min(P, t)) is exact, each part has a scale of its own, and
P V = min(P, t) V + (P - min(P, t)) V costs one more product of the kind that is a small part of a transformer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bpudeploy.quantize.taps import Reading, softmax_side

if TYPE_CHECKING:
    import onnx

LIMIT = 1.0 / 16.0
"""At most 16 entries of a row can be above it."""


def split_softmax(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """Return ``model`` with each MatMul of a softmax taken in two, and how many there were.

    The sum keeps the name of the MatMul and of its output; the two products are called ``NAME.small``, ``NAME.large``.
    """
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    reading = Reading(model)
    out = onnx.ModelProto()
    out.CopyFrom(model)
    limit = f"softmax.limit.{LIMIT:g}"
    nodes, count = [], 0
    for node in model.graph.node:
        side = softmax_side(reading, node)
        if side is None:
            nodes.append(node)
            continue
        count += 1
        chances, values, name = node.input[side], node.input[1 - side], node.name
        low, high = ([part, values] if side == 0 else [values, part] for part in (f"{name}.low", f"{name}.high"))
        nodes += [
            helper.make_node("Clip", [chances, "", limit], [f"{name}.low"], name=f"{name}.low"),
            helper.make_node("Sub", [chances, f"{name}.low"], [f"{name}.high"], name=f"{name}.high"),
            helper.make_node("MatMul", low, [f"{name}.small"], name=f"{name}.small"),
            helper.make_node("MatMul", high, [f"{name}.large"], name=f"{name}.large"),
            helper.make_node("Add", [f"{name}.small", f"{name}.large"], [node.output[0]], name=name),
        ]
    if count:
        del out.graph.node[:]
        out.graph.node.extend(nodes)
        out.graph.initializer.append(numpy_helper.from_array(np.array(LIMIT, np.float32), limit))
    return out, count
