"""Attention's values are centred: what a softmax rounded to int8 gets wrong is then weighed with less.

A row of the softmax P sums to 1, so P V = P (V - 1 c') + 1 c' for any vector c, one number a channel. With c the mean
of V over calibration, a rounding error in P meets V - c instead of V, and the sum of a row's errors, which is not 0,
meets next to nothing. c goes into the bias of the convolution that makes V, and comes back in the bias of the one that
reads P V: exact in float, and for nothing at run time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bpudeploy.quantize.calibrate import tapped
from bpudeploy.quantize.taps import Reading, softmax_side

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    F32 = NDArray[np.float32]


@dataclass(frozen=True)
class _Attention:
    """``values`` makes V, ``reader`` reads P V; channel i of ``reader``'s input is channel ``order[i]`` of V."""

    values: str
    reader: str
    order: tuple[int, ...]


def centre_values(model: onnx.ModelProto, images: Iterable[F32]) -> tuple[onnx.ModelProto, int]:
    """Return ``model`` with the values of each attention centred, and how many there are.

    Args:
        images: float32 (N, 3, H, W), normalised; a few will do.
    """
    import numpy as np
    import onnx

    reading = Reading(model)
    found = _attentions(model, reading)
    out = onnx.ModelProto()
    out.CopyFrom(model)
    if not found:
        return out, 0
    tensors = [reading.nodes[a.values].output[0] for a in found]
    session, _ = tapped(model, tensors)
    (fed,) = (value.name for value in session.get_inputs())
    sums, runs = [np.zeros(1) for _ in found], 0
    for image in images:
        made = session.run(tensors, {fed: image})
        sums = [total + value.mean(axis=(0, 2, 3), dtype=np.float64) for total, value in zip(sums, made, strict=True)]
        runs += 1
    nodes = {node.name: node for node in out.graph.node}
    for attention, total in zip(found, sums, strict=True):
        mean = total / runs
        _add_bias(out, nodes[attention.values], -mean)
        weight = _constant(out, nodes[attention.reader].input[1])[:, :, 0, 0]
        _add_bias(out, nodes[attention.reader], weight @ mean[list(attention.order)])
    return out, len(found)


def _attentions(model: onnx.ModelProto, reading: Reading) -> list[_Attention]:
    """Find each product of a softmax and values that a Conv makes, if one 1x1 Conv alone reads what comes out."""
    import onnx

    shapes = _shapes(onnx.shape_inference.infer_shapes(model))
    everyone = frozenset(reading.nodes)
    found = []
    for node in model.graph.node:
        side = softmax_side(reading, node)
        if side is None:
            continue
        values = reading.maker.get(reading.source(node.input[1 - side]))
        if values is None or values.op_type != "Conv" or not _sums_to_one(reading, shapes, node, side):
            continue
        uses, given = reading.uses(node.output[0], everyone), reading.uses(values.output[0], everyone)
        if any(len(u.products) != 1 or u.others for u in (uses, given)):
            continue
        read, name = uses.products[0]
        order = _order(reading, shapes, values.output[0], node, 1 - side, read)
        if order is not None and _is_linear(reading.nodes[name], shapes):
            found.append(_Attention(values.name, name, order))
    return found


def _sums_to_one(reading: Reading, shapes: dict[str, tuple[int, ...]], matmul: onnx.NodeProto, side: int) -> bool:
    """Return whether the product sums over the softmax's own axis, its last: P V or V' P'."""
    import numpy as np

    chances = reading.source(matmul.input[side])
    places = np.broadcast_to(np.arange(shapes[chances][-1]), shapes[chances])
    given = _through(reading, places, chances, matmul.input[side])
    if given is None or given.ndim < 2:
        return False
    moved = given if side == 0 else given.swapaxes(-1, -2)
    return bool((moved == np.arange(moved.shape[-1])).all())


def _is_linear(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> bool:
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    pads = next((list(a.ints) for a in node.attribute if a.name == "pads"), [0])
    return node.op_type == "Conv" and groups == 1 and not any(pads) and shapes[node.input[1]][2:] == (1, 1)


def _order(
    reading: Reading,
    shapes: dict[str, tuple[int, ...]],
    values: str,
    matmul: onnx.NodeProto,
    side: int,
    read: str,
) -> tuple[int, ...] | None:
    """Follow the number of each channel through the views and the MatMul, of which the values are input ``side``."""
    import numpy as np

    channels = np.broadcast_to(np.arange(shapes[values][1])[None, :, None, None], shapes[values])
    given = _through(reading, channels, values, matmul.input[side])
    if given is None or given.shape != shapes[matmul.input[side]]:
        return None
    one = given[..., :1, :] if side == 1 else given[..., :1]  # of one token: the others are numbered alike
    if (given != one).any():
        return None
    left = _through(reading, np.broadcast_to(one, shapes[matmul.output[0]]), matmul.output[0], read)
    if left is None or left.ndim != 4 or (left != left[:1, :, :1, :1]).any():
        return None
    return tuple(int(c) for c in left[0, :, 0, 0])


def _through(reading: Reading, value: NDArray[np.int64], start: str, end: str) -> NDArray[np.int64] | None:
    """Carry ``value`` of tensor ``start`` through the Reshapes and Transposes to ``end``; None if there is a Slice."""
    from onnx import helper, numpy_helper

    chain = []
    while end != start:
        chain.append(reading.maker[end])
        end = chain[-1].input[0]
    for node in reversed(chain):
        if node.op_type == "Transpose":
            value = value.transpose([int(i) for i in helper.get_attribute_value(node.attribute[0])])
        elif node.op_type == "Reshape":
            shape = numpy_helper.to_array(reading.constants[node.input[1]])
            value = value.reshape([value.shape[i] if n == 0 else int(n) for i, n in enumerate(shape)])
        elif node.op_type != "Identity":
            return None
    return value


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    values = [*model.graph.value_info, *model.graph.input, *model.graph.output]
    found = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}
    return found | {t.name: tuple(t.dims) for t in model.graph.initializer}


def _constant(model: onnx.ModelProto, name: str) -> NDArray[np.float64]:
    from onnx import numpy_helper

    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    value: NDArray[np.float64] = numpy_helper.to_array(tensor).astype("float64")
    return value


def _add_bias(model: onnx.ModelProto, node: onnx.NodeProto, shift: NDArray[np.float64]) -> None:
    """Add ``shift`` (out,) to the bias of a Conv, which may have none; another Conv may share what it had."""
    from onnx import numpy_helper

    bias = shift + (_constant(model, node.input[2]) if len(node.input) > 2 else 0.0)
    name = f"{node.name}.bias.shifted"
    model.graph.initializer.append(numpy_helper.from_array(bias.astype("float32"), name))
    del node.input[2:]
    node.input.append(name)
