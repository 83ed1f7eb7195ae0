"""Find attention in a graph: the convolution that computes its values, the product, and what reads it.

P V with P a Softmax, or (E V) / sum E with E = exp(S) and the sum as a convolution of ones (``layout.heads``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from bpudeploy.onnxmodel import attribute, shapes_of
from bpudeploy.quantize.arrays import I64
from bpudeploy.quantize.taps import GraphIndex, is_pointwise, softmax_input
from bpudeploy.spec.operators import VIEWS

Shapes = dict[str, tuple[int, ...]]
PADDING = -1
"""In place of the number of a channel: zeros that a Concat appended."""


@dataclass(frozen=True)
class Product:
    """``node`` is P V of some heads. ``channels``: for each number of one token of its output, the channel of V.

    ``token_axes``: the axes of that output which are not channels. ``divided``: it is of exp(S), and divided by its sum
    afterwards.
    """

    node: str
    channels: tuple[int, ...]
    token_axes: tuple[int, ...]
    divided: bool


@dataclass(frozen=True)
class Attention:
    """``values`` computes V, ``products`` are P V of all heads, or each of one, and ``reader`` reads them all.

    ``order``: channel i of the reader's input is channel ``order[i]`` of V.
    """

    values: str
    products: tuple[Product, ...]
    reader: str
    order: tuple[int, ...]


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
    """Find the Convs that compute values which only attentions read, whose results a single 1x1 Conv reads only."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    shapes = shapes_of(inferred) | {t.name: tuple(t.dims) for t in inferred.initializer}
    products: dict[str, list[tuple[onnx.NodeProto, _Weights]]] = {}
    for node in model.graph.node:
        weights = _weights(index, shapes, node)
        if weights is not None:
            products.setdefault(index.source(node.input[1 - weights.side]), []).append((node, weights))
    found = (_attention(index, shapes, values, read_by) for values, read_by in products.items())
    return [attention for attention in found if attention is not None]


def _attention(
    index: GraphIndex, shapes: Shapes, values: str, products: Sequence[tuple[onnx.NodeProto, _Weights]]
) -> Attention | None:
    """Return the attention of the tensor ``values`` and the products that read it, or None."""
    computes, end = index.producers.get(values), _reader(index, products[0][1].divided[1])
    readers = index.readers_through_views(values, ()).others
    if computes is None or computes.op_type != "Conv" or end is None or not is_pointwise(index, end):
        return None
    if {name for _, name in readers} != {node.name for node, _ in products} or len(readers) != len(products):
        return None
    channels = {values: np.broadcast_to(np.arange(shapes[values][1])[None, :, None, None], shapes[values])}
    found, results = [], dict[str, I64]()
    for node, weights in products:
        traced = _trace(index, shapes, channels, node, weights) if _sums_to_one(index, shapes, node, weights) else None
        if traced is None or _reader(index, weights.divided[1]) is not end:
            return None
        product, results[weights.divided[1]] = traced
        found.append(product)
    after = through_views(index, results, end.input[0])
    if after is None or after.ndim != 4 or (after != after[:1, :, :1, :1]).any():
        return None
    return Attention(computes.name, tuple(found), end.name, tuple(int(c) for c in after[0, :, 0, 0]))


def _reader(index: GraphIndex, tensor: str) -> onnx.NodeProto | None:
    """Return the one node that reads ``tensor``, through views and where it is joined with others, or None."""
    ends, todo = set[str](), [tensor]
    while todo:
        name = todo.pop()
        if name in index.outputs:
            return None
        for node in index.readers.get(name, ()):
            if node.op_type == "Concat" or index.is_view(node):
                todo.append(node.output[0])
            else:
                ends.add(node.name)
    return index.nodes[ends.pop()] if len(ends) == 1 else None


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
    viewed = through_views(index, {weights.tensor: positions}, matmul.input[weights.side])
    if viewed is None or viewed.ndim < 2:
        return False
    moved = viewed if weights.side == 0 else viewed.swapaxes(-1, -2)
    return bool((moved == np.arange(moved.shape[-1])).all())


def _trace(
    index: GraphIndex, shapes: Shapes, channels: Mapping[str, I64], matmul: onnx.NodeProto, weights: _Weights
) -> tuple[Product, I64] | None:
    """Trace the channel numbers of V through views, the MatMul and the division, whose result is the second."""
    side = 1 - weights.side
    viewed = through_views(index, channels, matmul.input[side])
    if viewed is None or viewed.shape != shapes[matmul.input[side]]:
        return None
    token = viewed[..., :1, :] if side == 1 else viewed[..., :1]
    if ((viewed != token) & (viewed != PADDING)).any():
        return None
    product = np.broadcast_to(token, shapes[matmul.output[0]])
    divided = through_views(index, {matmul.output[0]: product}, weights.divided[0])
    if divided is None:
        return None
    axes = tuple(axis for axis in range(product.ndim) if (product == product.take([0], axis=axis)).all())
    first = product[tuple(slice(1) if axis in axes else slice(None) for axis in range(product.ndim))]
    is_quotient = weights.divided[1] != matmul.output[0]
    return Product(matmul.name, tuple(int(c) for c in first.ravel()), axes, is_quotient), divided


def _part(index: GraphIndex, values: Mapping[str, I64], name: str) -> I64 | None:
    """Return ``through_views`` of one input of a Concat; in a constant, nothing of them is left."""
    if name in index.constants:
        return np.full(tuple(index.constants[name].dims), PADDING)
    return through_views(index, values, name)


def through_views(index: GraphIndex, values: Mapping[str, I64], end: str) -> I64 | None:
    """Return what the views between the tensors ``values`` and ``end`` make of them; None if one is of another kind."""
    if end in values:
        return values[end]
    node = index.producers.get(end)
    if node is None:
        return None
    if node.op_type == "Concat":
        parts = [_part(index, values, name) for name in node.input]
        given = [part for part in parts if part is not None]
        return np.concatenate(given, axis=attribute(node, "axis", 0)) if len(given) == len(parts) else None
    viewed = through_views(index, values, node.input[0]) if node.op_type in VIEWS else None
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
