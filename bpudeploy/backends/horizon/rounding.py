"""Biases that undo how hb_mapper's integers are rounded.

On X5 and Ultra, int16 results are round(g floor(a / 2^s)), where the accumulator a and the output have different
units, and s is such that 1 <= g < 2. The floor makes every value g/2 steps too small on average. A step is small, but
the shift has the same sign everywhere: the mean of squares of a norm was 2.4 % too small in block 3 of the quickstart's
ViT-S. So biases get back what is lost: that of a convolution for its own output, for an Add that reads it, and for
a product of two tensors that it reads. MatMuls have no bias; theirs stays.

Found by comparing the tool's integer model with float, operator by operator (hb_mapper 1.24.3): the mean error of a
channel is -g/2 within 0.07 steps.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from bpudeploy.quantize.arrays import F64
from bpudeploy.quantize.onnx_edit import constant, shift_bias
from bpudeploy.quantize.taps import GraphIndex
from bpudeploy.quantize.vendor import scale_file
from bpudeploy.spec.precision import Precision


def undo_floors(model: onnx.ModelProto, quantized: onnx.ModelProto) -> None:
    """Add to the biases of ``model`` what the floors of int16 results lose on average, in place.

    Args:
        model: the float graph to compile.
        quantized: its QDQ form, with the same node names.
    """
    scales, index = scale_file(quantized), GraphIndex(model)
    steps = {a.tensor: a.scale for a in sorted(scales.activations, key=lambda a: a.precision is Precision.INT16)}
    wide = frozenset(a.tensor for a in scales.activations if a.precision is Precision.INT16)
    weights = {weight.tensor: np.array(weight.scales) for weight in scales.weights}
    rounded = GraphIndex(quantized)
    for conv in [node for node in model.graph.node if node.op_type == "Conv" and node.input[1] in weights]:
        weight = constant(model, conv.input[1])
        shift = np.zeros(len(weight))
        if conv.output[0] in wide:
            read = rounded.producers[rounded.source(rounded.nodes[conv.name].input[0])]
            step = numpy_helper.to_array(rounded.constants[read.input[1]])
            shift += _lost(step * weights[conv.input[1]], steps[conv.output[0]])
            after = index.readers.get(conv.output[0], [])
            if len(after) == 1 and after[0].op_type == "Add":
                shift += _lost_by(after[0], steps, wide)
        before = index.producers.get(index.source(conv.input[0]))
        if before is not None and before.op_type == "Mul":
            shift += weight.sum(axis=(1, 2, 3)) * _lost_by(before, steps, wide)
        if shift.any():
            shift_bias(model, conv, shift)


def _lost_by(node: onnx.NodeProto, steps: Mapping[str, float], wide: frozenset[str]) -> float:
    """Return what an Add or Mul loses on average: 0 unless its output is int16 and both inputs are rounded tensors."""
    if node.output[0] not in wide or not all(name in steps for name in node.input):
        return 0.0
    one, two = (steps[name] for name in node.input)
    return float(_lost(np.array(one * two if node.op_type == "Mul" else max(one, two)), steps[node.output[0]]))


def _lost(unit: F64, step: float) -> F64:
    """Return g/2 steps: the loss of an accumulator in ``unit`` times a power of 2, for an output in ``step``."""
    ratio = unit / step
    found: F64 = ratio / np.exp2(np.floor(np.log2(ratio))) / 2.0 * step
    return found
