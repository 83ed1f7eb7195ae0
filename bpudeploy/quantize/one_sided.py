"""Subtract the middle of a one-sided range, so that int8, which is symmetric here, uses all of its levels.

A GELU, SiLU or HardSwish y goes from about -0.2 to its largest value m: half of the levels of a symmetric int8 are
never used. W y + b = W (y - c) + (b + W c) is exact, and with c near m / 2 the step is about half as large. The
subtraction costs one elementwise operator, less than an int16 convolution. The values that a ReLU gives have no
negative side at all: a compiler that has an unsigned type for them needs no subtraction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx
from onnx import helper

from bpudeploy.host import open_with_outputs
from bpudeploy.onnxmodel import copy_model
from bpudeploy.quantize.arrays import F32
from bpudeploy.quantize.observer import Histogram
from bpudeploy.quantize.onnx_edit import constant, put_constant, set_nodes, shift_bias
from bpudeploy.quantize.taps import GraphIndex, QuantizationPoint, is_pointwise
from bpudeploy.spec.precision import Precision

_CENTRED = ".centred"
_PRODUCERS = frozenset({"Mul", "Gelu", "HardSwish"})
_ONE_SIDED = 0.5
"""The smallest value may be at most this part of the largest: then the step becomes at most 3/4 of what it was."""


def centre_ranges(
    model: onnx.ModelProto,
    points: Sequence[QuantizationPoint],
    images: Iterable[F32],
    limit: Callable[[Histogram], float],
) -> tuple[onnx.ModelProto, int]:
    """Return ``model`` with the middle of each one-sided int8 input of 1x1 Convs subtracted, and their number.

    Args:
        points: where ``model`` is quantized.
        images: float32 (N, 3, H, W), normalised; a few are enough, as any middle is exact.
        limit: the clipping threshold of a histogram.
    """
    index = GraphIndex(model)
    middles = _middles(model, [p.source for p in points if _is_candidate(index, p)], images, limit)
    out = copy_model(model)
    nodes = []
    for node in out.graph.node:
        nodes.append(node)
        for name in (name for name in node.output if name in middles):
            middle = put_constant(out, f"{name}.middle", np.array(middles[name], np.float32))
            nodes.append(helper.make_node("Sub", [name, middle], [f"{name}{_CENTRED}"], name=f"{name}{_CENTRED}"))
    for node in nodes:
        if node.op_type == "Conv" and node.input[0] in middles:
            moved = constant(out, node.input[1]).sum(axis=(1, 2, 3)) * middles[node.input[0]]
            node.input[0] += _CENTRED
            shift_bias(out, node, moved)
    set_nodes(out, nodes)
    return out, len(middles)


def _is_candidate(index: GraphIndex, point: QuantizationPoint) -> bool:
    """Return whether only 1x1 Convs without padding read the tap, directly, and an activation may have produced it."""
    producer = index.producers.get(point.source)
    if point.precision is not Precision.INT8 or producer is None or producer.op_type not in _PRODUCERS:
        return False
    if any(name in index.producers and index.producers[name].op_type == "Reciprocal" for name in producer.input):
        return False  # a norm, or a division by a sum
    readers = index.readers.get(point.source, ())
    return {node.name for node in readers} == set(point.products) and all(is_pointwise(index, n) for n in readers)


def _middles(
    model: onnx.ModelProto, tensors: Sequence[str], images: Iterable[F32], limit: Callable[[Histogram], float]
) -> dict[str, float]:
    """Return the middle of the range of each of ``tensors`` that is one-sided."""
    if not tensors:
        return {}
    session = open_with_outputs(model, tensors, only=True)
    (fed,) = (value.name for value in session.get_inputs())
    smallest = dict.fromkeys(tensors, 0.0)
    histograms = {name: Histogram() for name in tensors}
    for image in images:
        for name, value in zip(tensors, session.run(tensors, {fed: image}), strict=True):
            smallest[name] = min(smallest[name], float(value.min()))
            histograms[name].add(value)
    found = {}
    for name, low in smallest.items():
        high = limit(histograms[name])
        if 0.0 < -low <= _ONE_SIDED * high:
            found[name] = (low + high) / 2.0
    return found
