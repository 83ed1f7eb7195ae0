"""Find attention in a graph: the convolution that computes its values, the product, and what reads it.

P V with P a Softmax, or (E V) / sum E with E = exp(S) and the sum as a convolution of ones (``layout.heads``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from bpudeploy.onnxmodel import attribute, shapes_of
from bpudeploy.quantize.arrays import I64
from bpudeploy.quantize.taps import GraphIndex, is_pointwise, softmax_input

Shapes = dict[str, tuple[int, ...]]
PADDING = -1
"""In place of the number of a channel: zeros that a Concat appended."""


@dataclass(frozen=True)
class Attention:
    """``values`` computes V, ``product`` is P V, which ``reader`` reads.

    ``order``: channel i of the reader's input is channel ``order[i]`` of V. ``channels``: the same for the product's
    output, for each of its numbers of one token. ``token_axes``: the axes of that output which are not channels.
    ``divided``: the product is of exp(S), and divided by its sum afterwards.
    """

    values: str
    product: str
    reader: str
    order: tuple[int, ...]
    channels: tuple[int, ...]
    token_axes: tuple[int, ...]
    divided: bool


@dataclass(frozen=True)
class _Weights:
    """The weights of a MatMul of values: input ``side``, which is a view of ``tensor`` with the keys on ``axis``.

    ``divided``: the tensor that is divided by their sum, and the quotient; both are the product if P is a Softmax.
    """

    side: int
    tensor: str
    axis: int
    divided: tuple[str, str]


@dataclass(frozen=True)
class Quotient:
    """(E V) / sum E: the tensor E, computed by an Exp, the Conv that sums it, E V as the division reads it, and the
    result.
    """

    exponentials: str
    total: str
    dividend: str
    quotient: str


def find_attentions(model: onnx.ModelProto, index: GraphIndex) -> list[Attention]:
    """Find each MatMul of attention and the output of a Conv, if its result is read by a single 1x1 Conv only."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    shapes = shapes_of(inferred) | {t.name: tuple(t.dims) for t in inferred.initializer}
    found = []
    for node in model.graph.node:
        weights = _weights(index, shapes, node)
        if weights is None:
            continue
        values = index.producers.get(index.source(node.input[1 - weights.side]))
        if values is None or values.op_type != "Conv" or not _sums_to_one(index, shapes, node, weights):
            continue
        after, of_values = (
            index.readers_through_views(tensor, index.nodes) for tensor in (weights.divided[1], values.output[0])
        )
        if any(len(r.products) != 1 or r.others for r in (after, of_values)):
            continue
        read, name = after.products[0]
        traced = _trace(index, shapes, values.output[0], node, weights, read)
        if traced is not None and is_pointwise(index, index.nodes[name]):
            divided = weights.divided[1] != node.output[0]
            found.append(Attention(values.name, node.name, name, *traced, divided))
    return found


def _weights(index: GraphIndex, shapes: Shapes, node: onnx.NodeProto) -> _Weights | None:
    """Return the weights that a MatMul reads, or None."""
    side = softmax_input(index, node)
    if side is not None:
        tensor = index.source(node.input[side])
        return _Weights(side, tensor, len(shapes[tensor]) - 1, (node.output[0], node.output[0]))
    found = find_quotient(index, node)
    return None if found is None else _Weights(0, found.exponentials, 1, (found.dividend, found.quotient))


def find_quotient(index: GraphIndex, matmul: onnx.NodeProto) -> Quotient | None:
    """Return what a MatMul is part of, if it is E V in (E V) / sum E and nothing else reads E."""
    tensor = index.source(matmul.input[0]) if matmul.op_type == "MatMul" else ""
    if tensor not in index.producers or index.producers[tensor].op_type != "Exp":
        return None
    others = index.readers_through_views(matmul.output[0], ()).others
    read, name = others[0] if len(others) == 1 else ("", "")
    if not name or index.nodes[name].op_type != "Mul":
        return None
    inverse = index.producers.get(next((t for t in index.nodes[name].input if t != read), ""))
    total = index.producers.get(inverse.input[0]) if inverse is not None and inverse.op_type == "Reciprocal" else None
    if total is None or len(total.input) > 2 or not is_pointwise(index, total):
        return None
    ones = numpy_helper.to_array(index.constants[total.input[1]])
    readers = {name for _, name in index.readers_through_views(tensor, ()).others}
    if (
        index.source(total.input[0]) != tensor
        or not set(ones.ravel()) <= {0.0, 1.0}
        or readers != {matmul.name, total.name}
    ):
        return None
    return Quotient(tensor, total.name, read, index.nodes[name].output[0])


def _sums_to_one(index: GraphIndex, shapes: Shapes, matmul: onnx.NodeProto, weights: _Weights) -> bool:
    """Return whether the MatMul sums over the keys: P V or V' P'."""
    shape = shapes[weights.tensor]
    along = [1] * len(shape)
    along[weights.axis] = shape[weights.axis]
    positions = np.broadcast_to(np.arange(shape[weights.axis]).reshape(along), shape)
    viewed = through_views(index, positions, weights.tensor, matmul.input[weights.side])
    if viewed is None or viewed.ndim < 2:
        return False
    moved = viewed if weights.side == 0 else viewed.swapaxes(-1, -2)
    return bool((moved == np.arange(moved.shape[-1])).all())


def _trace(
    index: GraphIndex, shapes: Shapes, values: str, matmul: onnx.NodeProto, weights: _Weights, read: str
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None:
    """Trace the channel numbers of ``values`` through views, the MatMul and the division.

    Returns those of the tensor ``read``, those of one token of the MatMul's output, and the axes of its tokens.
    """
    side = 1 - weights.side
    channels = np.broadcast_to(np.arange(shapes[values][1])[None, :, None, None], shapes[values])
    viewed = through_views(index, channels, values, matmul.input[side])
    if viewed is None or viewed.shape != shapes[matmul.input[side]]:
        return None
    token = viewed[..., :1, :] if side == 1 else viewed[..., :1]
    if ((viewed != token) & (viewed != PADDING)).any():
        return None
    product = np.broadcast_to(token, shapes[matmul.output[0]])
    divided = through_views(index, product, matmul.output[0], weights.divided[0])
    after = None if divided is None else through_views(index, divided, weights.divided[1], read)
    if after is None or after.ndim != 4 or (after != after[:1, :, :1, :1]).any():
        return None
    axes = tuple(axis for axis in range(product.ndim) if (product == product.take([0], axis=axis)).all())
    first = product[tuple(slice(1) if axis in axes else slice(None) for axis in range(product.ndim))]
    return tuple(int(c) for c in after[0, :, 0, 0]), tuple(int(c) for c in first.ravel()), axes


def _part(index: GraphIndex, value: I64, start: str, name: str) -> I64 | None:
    """Return what is left of ``value`` in one input of a Concat: nothing in a constant."""
    if name in index.constants:
        return np.full(tuple(index.constants[name].dims), PADDING)
    return through_views(index, value, start, name)


def through_views(index: GraphIndex, value: I64, start: str, end: str) -> I64 | None:
    """Return what the views from tensor ``start`` to ``end`` make of ``value``; None if one is of another kind."""
    if end == start:
        return value
    node = index.producers[end]
    if node.op_type == "Concat":
        parts = [_part(index, value, start, name) for name in node.input]
        given = [part for part in parts if part is not None]
        return np.concatenate(given, axis=attribute(node, "axis", 0)) if len(given) == len(parts) else None
    viewed = through_views(index, value, start, node.input[0])
    if viewed is None:
        return None
    value = viewed
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
