"""Use both signs of an int16 for the exponents of a softmax that is written out (``layout.heads``).

exp(S - max S) reads values from far below 0 up to 0, and anything below -11.2 becomes 0 in int16. A lookup table covers
its input's integers evenly from -t to t: with t = 40 the vendor's table for X5 had steps of 0.9 where a softmax lives,
an error of 10 %. softmax(S) is the same for any constant that is added to S, so exp(S - max S + 5.6) is exact, reads
values up to 5.6, and with t = 5.6 rounds nothing to 0 that would not be 0 anyway.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper

from bpudeploy.onnxmodel import copy_model
from bpudeploy.quantize.attentions import find_quotient
from bpudeploy.quantize.onnx_edit import put_constant, set_nodes
from bpudeploy.quantize.taps import GraphIndex

RAISED = 5.6
"""The largest exponent. exp(-5.6) is less than half a step of int16 where the largest value is exp(5.6)."""
_RAISED = f"softmax.raised.{RAISED:g}"
_LOWERED = ".lowered"


def raise_exponents(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, tuple[float, ...]]]:
    """Return ``model`` with ``RAISED`` added to the exponents of each written-out softmax, and the factor of each sum
    of exponentials, by node.
    """
    shifts = dict(_shifts(GraphIndex(model)))
    if not shifts:
        return model, {}
    out, nodes, lowered = copy_model(model), [], set[str]()
    for node in out.graph.node:
        if node.name in shifts:
            largest, node.input[1] = node.input[1], node.input[1] + _LOWERED
            if largest not in lowered:
                lowered.add(largest)
                nodes.append(helper.make_node("Sub", [largest, _RAISED], [node.input[1]], name=node.input[1]))
        nodes.append(node)
    set_nodes(out, nodes)
    put_constant(out, _RAISED, np.full((1, 1, 1, 1), RAISED, np.float32))
    return out, {total: (math.exp(RAISED),) for total in shifts.values()}


def raised(model: onnx.ModelProto) -> frozenset[str]:
    """Return the tensors of raised exponents: what each Exp reads."""
    sums = {node.output[0] for node in model.graph.node if node.op_type == "Sub" and node.input[1] == _RAISED}
    return frozenset(node.output[0] for node in model.graph.node if node.op_type == "Sub" and node.input[1] in sums)


def _shifts(index: GraphIndex) -> Iterator[tuple[str, str]]:
    """Yield the Sub, and the Conv that sums, of each softmax that is written out."""
    for node in index.nodes.values():
        found = find_quotient(index, node)
        if found is None:
            continue
        shift = index.producers.get(index.producers[found.exponentials].input[0])
        if shift is not None and shift.op_type == "Sub":
            largest = index.producers.get(shift.input[1])
            if largest is not None and largest.op_type == "ReduceMax" and largest.input[0] == shift.input[0]:
                yield shift.name, found.total
