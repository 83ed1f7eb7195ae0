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
from onnx import numpy_helper

from bpudeploy.host import open_with_outputs
from bpudeploy.onnxmodel import attribute, copy_model, shapes_of
from bpudeploy.quantize.arrays import F32, F64, I64
from bpudeploy.quantize.onnx_edit import constant, put_constant, shift_bias
from bpudeploy.quantize.taps import GraphIndex, is_pointwise, softmax_input

Shapes = dict[str, tuple[int, ...]]
_FLOOR = 2.0**-6
"""The smallest range, relative to the largest: channels that are almost always zero stay small."""


@dataclass(frozen=True)
class Attention:
    """``values`` computes V, ``product`` is P V, which ``reader`` reads.

    ``order``: channel i of the reader's input is channel ``order[i]`` of V. ``channels``: the same for the product's
    output, for each of its numbers of one token. ``token_axes``: the axes of that output which are not channels.
    """

    values: str
    product: str
    reader: str
    order: tuple[int, ...]
    channels: tuple[int, ...]
    token_axes: tuple[int, ...]


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
        moved[attention.product] = tuple(factors[list(attention.channels)].tolist())
    return out, moved


def _ranges(squared: F64) -> F64:
    """Return the square roots relative to the largest, at least ``_FLOOR``: the range of each channel."""
    return np.maximum(np.sqrt(squared / max(float(squared.max()), 1e-30)), _FLOOR)


def _scale(model: onnx.ModelProto, conv: onnx.NodeProto, weight: F64) -> None:
    """Give a Conv the weights ``weight``, as a new initializer: another Conv may share the old one."""
    conv.input[1] = put_constant(model, f"{conv.name}.weight.equalized", weight.astype(np.float32))


def find_attentions(model: onnx.ModelProto, index: GraphIndex) -> list[Attention]:
    """Find each MatMul of a softmax and the output of a Conv, if its result is read by a single 1x1 Conv only."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    shapes = shapes_of(inferred) | {t.name: tuple(t.dims) for t in inferred.initializer}
    found = []
    for node in model.graph.node:
        side = softmax_input(index, node)
        if side is None:
            continue
        values = index.producers.get(index.source(node.input[1 - side]))
        if values is None or values.op_type != "Conv" or not _sums_to_one(index, shapes, node, side):
            continue
        after, of_values = (index.readers_through_views(n.output[0], index.nodes) for n in (node, values))
        if any(len(r.products) != 1 or r.others for r in (after, of_values)):
            continue
        read, name = after.products[0]
        traced = _trace(index, shapes, values.output[0], node, 1 - side, read)
        if traced is not None and is_pointwise(index, index.nodes[name]):
            found.append(Attention(values.name, node.name, name, *traced))
    return found


def _sums_to_one(index: GraphIndex, shapes: Shapes, matmul: onnx.NodeProto, side: int) -> bool:
    """Return whether the MatMul sums over the softmax's axis, its last: P V or V' P'."""
    softmax = index.source(matmul.input[side])
    positions = np.broadcast_to(np.arange(shapes[softmax][-1]), shapes[softmax])
    viewed = _through_views(index, positions, softmax, matmul.input[side])
    if viewed is None or viewed.ndim < 2:
        return False
    moved = viewed if side == 0 else viewed.swapaxes(-1, -2)
    return bool((moved == np.arange(moved.shape[-1])).all())


def _trace(
    index: GraphIndex, shapes: Shapes, values: str, matmul: onnx.NodeProto, side: int, read: str
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None:
    """Trace the channel numbers of ``values``, input ``side`` of ``matmul``, through views and the MatMul.

    Returns those of the tensor ``read``, those of one token of the MatMul's output, and the axes of its tokens.
    """
    channels = np.broadcast_to(np.arange(shapes[values][1])[None, :, None, None], shapes[values])
    viewed = _through_views(index, channels, values, matmul.input[side])
    if viewed is None or viewed.shape != shapes[matmul.input[side]]:
        return None
    token = viewed[..., :1, :] if side == 1 else viewed[..., :1]
    if (viewed != token).any():
        return None
    product = np.broadcast_to(token, shapes[matmul.output[0]])
    after = _through_views(index, product, matmul.output[0], read)
    if after is None or after.ndim != 4 or (after != after[:1, :, :1, :1]).any():
        return None
    axes = tuple(axis for axis in range(product.ndim) if (product == product.take([0], axis=axis)).all())
    first = product[tuple(slice(1) if axis in axes else slice(None) for axis in range(product.ndim))]
    return tuple(int(c) for c in after[0, :, 0, 0]), tuple(int(c) for c in first.ravel()), axes


def _through_views(index: GraphIndex, value: I64, start: str, end: str) -> I64 | None:
    """Return what the views from tensor ``start`` to ``end`` make of ``value``; None if one is of another kind."""
    if end == start:
        return value
    node = index.producers[end]
    parts = [_through_views(index, value, start, name) for name in node.input if name not in index.constants]
    given = [part for part in parts if part is not None]
    if len(given) < len(parts):
        return None
    if node.op_type == "Concat":
        return np.concatenate(given, axis=attribute(node, "axis", 0))
    (value,) = given
    match node.op_type:
        case "Transpose":
            return value.transpose([int(i) for i in attribute(node, "perm", range(value.ndim)[::-1])])
        case "Reshape":
            shape = numpy_helper.to_array(index.constants[node.input[1]])
            return value.reshape([value.shape[i] if n == 0 else int(n) for i, n in enumerate(shape)])
        case "Slice" if len(node.input) > 3:
            starts, ends, axes, *steps = (numpy_helper.to_array(index.constants[name]) for name in node.input[1:])
            cuts = [slice(None)] * value.ndim
            for i, axis in enumerate(axes):
                cuts[int(axis)] = slice(int(starts[i]), int(ends[i]), int(steps[0][i]) if steps else 1)
            return value[tuple(cuts)]
        case "Identity":
            return value
    return None
