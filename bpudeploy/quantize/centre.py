"""Centre and equalize the values of attention, to reduce the effect of rounding it to int8.

A row of the softmax P sums to 1, so P V = P (V - 1 c') + 1 c' for any vector c with one number per channel. With c the
mean of V over calibration, a rounding error in P is multiplied by V - c instead of V, and the nonzero sum of a row's
errors has almost no effect. c is subtracted in the bias of the convolution that computes V, and added back in the bias
of the one that reads P V. A factor per channel passes through P V likewise, from the first to the second convolution:
it gives all channels about the same range. Both are exact in float, and free at run time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx

from bpudeploy.host import open_with_outputs
from bpudeploy.onnxmodel import copy_model
from bpudeploy.quantize.arrays import F32, F64
from bpudeploy.quantize.attentions import find_attentions
from bpudeploy.quantize.onnx_edit import constant, put_constant, shift_bias
from bpudeploy.quantize.taps import GraphIndex

_FLOOR = 2.0**-6
"""The smallest range, relative to the largest: channels that are almost always zero stay small."""


@dataclass
class _Range:
    """The smallest, the largest and the mean value of each channel, over the images seen."""

    low: F32 | float = np.inf
    high: F32 | float = -np.inf
    total: F64 | float = 0.0

    def update(self, value: F32) -> None:
        self.low = np.minimum(self.low, value.min(axis=(0, 2, 3)))
        self.high = np.maximum(self.high, value.max(axis=(0, 2, 3)))
        self.total = self.total + value.mean(axis=(0, 2, 3), dtype=np.float64)

    def half_width(self, centre: F64) -> F64:
        """Return the largest distance from ``centre`` in each channel."""
        return np.maximum(self.high - centre, centre - self.low).astype(np.float64)


def centre_values(
    model: onnx.ModelProto, images: Iterable[F32], *, equalize: bool = False
) -> tuple[onnx.ModelProto, dict[str, tuple[float, ...]]]:
    """Return ``model`` with the values of each attention centred, and their factors.

    The factors are those of the output channels, of each Conv that computes values and each MatMul that reads them;
    all are 1 unless ``equalize``.

    Args:
        images: float32 (N, 3, H, W), normalised; a few are enough.
        equalize: also give all channels of the values about the same range.
    """
    index = GraphIndex(model)
    found = find_attentions(model, index)
    out = copy_model(model)
    if not found:
        return out, {}
    read = [tensor for a in found for tensor in (index.nodes[a.values].output[0], index.nodes[a.reader].input[0])]
    session = open_with_outputs(model, list(dict.fromkeys(read)), only=True)
    (fed,) = (value.name for value in session.get_inputs())
    ranges, runs = [_Range() for _ in read], 0
    for image in images:
        for seen, value in zip(ranges, session.run(read, {fed: image}), strict=True):
            seen.update(value)
        runs += 1
    nodes = {node.name: node for node in out.graph.node}
    moved: dict[str, tuple[float, ...]] = {}
    for attention, values, products in zip(found, ranges[::2], ranges[1::2], strict=True):
        mean, order = np.asarray(values.total / runs), list(attention.order)
        computes, reads = nodes[attention.values], nodes[attention.reader]
        weight = constant(out, reads.input[1])
        shift_bias(out, computes, -mean)
        shift_bias(out, reads, weight[:, :, 0, 0] @ mean[order])
        factors = np.ones_like(mean)
        if equalize:
            needed = np.zeros_like(mean)
            np.maximum.at(needed, order, products.half_width(mean[order]))
            factors = 1.0 / _ranges(values.half_width(mean) * needed)
            _scale(out, reads, weight / factors[order][None, :, None, None])
            shift_bias(out, computes, constant(out, computes.input[2]) * (factors - 1.0))
            _scale(out, computes, constant(out, computes.input[1]) * factors[:, None, None, None])
        moved[attention.values] = tuple(factors.tolist())
        moved |= {product.node: tuple(factors[list(product.channels)].tolist()) for product in attention.products}
    return out, moved


def _ranges(squared: F64) -> F64:
    """Return the square roots relative to the largest, at least ``_FLOOR``: the range of each channel."""
    return np.maximum(np.sqrt(squared / max(float(squared.max()), 1e-30)), _FLOOR)


def _scale(model: onnx.ModelProto, conv: onnx.NodeProto, weight: F64) -> None:
    """Give a Conv the weights ``weight``, as a new initializer: another Conv may share the old one."""
    conv.input[1] = put_constant(model, f"{conv.name}.weight.equalized", weight.astype(np.float32))
