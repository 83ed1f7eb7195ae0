"""Centre the values of attention, to reduce the effect of rounding its softmax to int8.

A row of the softmax P sums to 1, so P V = P (V - 1 c') + 1 c' for any vector c with one number per channel. With c the
mean of V over calibration, a rounding error in P is multiplied by V - c instead of V, and the nonzero sum of a row's
errors has almost no effect. c is subtracted in the bias of the convolution that computes V, and added back in the bias
of the one that reads P V. This is exact in float, and free at run time.
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
from bpudeploy.quantize.onnx_edit import constant, put_constant
from bpudeploy.quantize.taps import GraphIndex, softmax_input

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class _Attention:
    """``values`` computes V, ``reader`` reads P V; channel i of the reader's input is channel ``order[i]`` of V."""

    values: str
    reader: str
    order: tuple[int, ...]


def centre_values(model: onnx.ModelProto, images: Iterable[F32]) -> tuple[onnx.ModelProto, int]:
    """Return ``model`` with the values of each attention centred, and their number.

    Args:
        images: float32 (N, 3, H, W), normalised; a few are enough.
    """
    index = GraphIndex(model)
    found = _attentions(model, index)
    out = copy_model(model)
    if not found:
        return out, 0
    tensors = [index.nodes[a.values].output[0] for a in found]
    session = open_with_outputs(model, tensors, only=True)
    (fed,) = (value.name for value in session.get_inputs())
    sums, runs = [np.zeros(1) for _ in found], 0
    for image in images:
        results = session.run(tensors, {fed: image})
        sums = [s + value.mean(axis=(0, 2, 3), dtype=np.float64) for s, value in zip(sums, results, strict=True)]
        runs += 1
    nodes = {node.name: node for node in out.graph.node}
    for attention, total in zip(found, sums, strict=True):
        mean = total / runs
        _add_to_bias(out, nodes[attention.values], -mean)
        weight = constant(out, nodes[attention.reader].input[1])[:, :, 0, 0]
        _add_to_bias(out, nodes[attention.reader], weight @ mean[list(attention.order)])
    return out, len(found)


def _attentions(model: onnx.ModelProto, index: GraphIndex) -> list[_Attention]:
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
        order = _order(index, shapes, values.output[0], node, 1 - side, read)
        if order is not None and _is_linear(index.nodes[name], shapes):
            found.append(_Attention(values.name, name, order))
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


def _is_linear(node: onnx.NodeProto, shapes: Shapes) -> bool:
    """Return whether ``node`` is a 1x1 Conv without groups or padding."""
    ungrouped = attribute(node, "group", 1) == 1 and not any(attribute(node, "pads", [0]))
    return node.op_type == "Conv" and ungrouped and shapes[node.input[1]][2:] == (1, 1)


def _order(
    index: GraphIndex, shapes: Shapes, values: str, matmul: onnx.NodeProto, side: int, read: str
) -> tuple[int, ...] | None:
    """Trace the channel numbers of ``values``, input ``side`` of ``matmul``, through views and the MatMul."""
    channels = np.broadcast_to(np.arange(shapes[values][1])[None, :, None, None], shapes[values])
    viewed = _through_views(index, channels, values, matmul.input[side])
    if viewed is None or viewed.shape != shapes[matmul.input[side]]:
        return None
    token = viewed[..., :1, :] if side == 1 else viewed[..., :1]
    if (viewed != token).any():
        return None
    after = _through_views(index, np.broadcast_to(token, shapes[matmul.output[0]]), matmul.output[0], read)
    if after is None or after.ndim != 4 or (after != after[:1, :, :1, :1]).any():
        return None
    return tuple(int(c) for c in after[0, :, 0, 0])


def _through_views(index: GraphIndex, value: I64, start: str, end: str) -> I64 | None:
    """Apply the Reshapes and Transposes from tensor ``start`` to ``end``; None if there is a Slice."""
    chain = []
    while end != start:
        chain.append(index.producers[end])
        end = chain[-1].input[0]
    for node in reversed(chain):
        if node.op_type == "Transpose":
            value = value.transpose([int(i) for i in attribute(node, "perm", range(value.ndim)[::-1])])
        elif node.op_type == "Reshape":
            shape = numpy_helper.to_array(index.constants[node.input[1]])
            value = value.reshape([value.shape[i] if n == 0 else int(n) for i, n in enumerate(shape)])
        elif node.op_type != "Identity":
            return None
    return value


def _add_to_bias(model: onnx.ModelProto, node: onnx.NodeProto, shift: F64) -> None:
    """Add ``shift`` (out,) to the bias of a Conv, as a new initializer: another Conv may share the old one."""
    bias = shift + (constant(model, node.input[2]) if len(node.input) > 2 else 0.0)
    name = put_constant(model, f"{node.name}.bias.shifted", bias.astype(np.float32))
    node.input[:] = [*node.input[:2], name]
