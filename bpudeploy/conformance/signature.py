"""The properties of a node that decide its placement, without sizes: the key into the measured placements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bpudeploy.conformance.graph import NodeView, Tensor
from bpudeploy.spec.operators import RESHAPES

_COMPARISONS = frozenset(["Equal", "Less", "Greater", "And", "Or", "Xor"])
_ARITHMETIC = frozenset(["Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "PRelu", "Mod", "Sum", "Mean", "Where"])
_ELEMENTWISE = _ARITHMETIC | _COMPARISONS
_INDICES = frozenset(["ArgMax", "ArgMin", "TopK", "Not", "NonZero", "Shape"]) | _COMPARISONS
UNIT_AXES_ONLY = "axes of 1 only"
Dims = tuple[int, ...]


def signature(node: NodeView) -> str | None:
    """Return the operator with its ranks, broadcasts and attributes, as in ``Add 4: same, channel constant``.

    None if a shape that it needs is unknown: such a node has no measured placement.
    """
    if node.domain or not node.features or any(t.shape is None for t in (*node.features, *node.outputs)):
        return None
    describe = _operands if node.op in _ELEMENTWISE else _DETAILS.get(node.op)
    details = describe(node) if describe is not None else ""
    if details is None:
        return None
    return f"{node.op} {_rank(node)}{': ' if details else ''}{details}"


def _operands(node: NodeView) -> str | None:
    """Describe how each operand is broadcast to the output, and which are constants."""
    out = node.outputs[0].shape or ()
    found = []
    for tensor in node.inputs:
        if tensor is None:
            continue
        if tensor.shape is None or len(tensor.shape) > len(out):
            return None
        found.append(_broadcast(tensor.shape, out) + (" constant" if tensor.constant else ""))
    if node.constants and node.producers and set(node.producers) <= {"Conv", "Gemm"}:
        found[-1] += ", after Conv"  # a constant can go into its weights and bias
    return f"{len(out)}: {', '.join(found)}" if len(out) != _rank(node) else ", ".join(found)


def _broadcast(dims: Dims, out: Dims) -> str:
    padded = (1,) * (len(out) - len(dims)) + dims
    if padded == out:
        return "same"
    if all(n == 1 for n in padded):
        return "one number"
    wide = [axis for axis, n in enumerate(padded) if n > 1]
    if wide == [1]:
        return "channel"
    if wide == [len(out) - 1]:
        return "last axis"
    if len(out) == 4 and padded[1] == 1 and padded[2:] == out[2:]:
        return "height and width"
    changed = [axis for axis, (a, b) in enumerate(zip(padded, out, strict=True)) if a != b]
    return f"along {_axes(changed)}"


def _axes(axes: Sequence[int]) -> str:
    return "".join(map(str, axes)) or "none"


def _attribute(node: NodeView, name: str, index: int | None, default: Any) -> Any:
    """Return an attribute, or the constant input that newer opsets have instead; None if its value is unknown."""
    if name in node.attributes:
        return node.attributes[name]
    if index is not None and index < len(node.inputs) and (tensor := node.inputs[index]) is not None:
        return None if tensor.values is None else tensor.values.reshape(-1).tolist()
    return default


def _word(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _second(node: NodeView) -> Tensor | None:
    return node.inputs[1] if len(node.inputs) > 1 else None


def _rank(node: NodeView) -> int:
    return len(node.features[0].shape or ())


def _axis(node: NodeView, default: int = 0) -> str:
    keep = f", keepdims {node.attributes['keepdims']}" if node.attributes.get("keepdims", 1) != 1 else ""
    return f"axis {int(node.attributes.get('axis', default)) % _rank(node)}{keep}"


def _last_axis(node: NodeView) -> str | None:
    return _axis(node, -1)


def _softmax(node: NodeView) -> str | None:
    return _axis(node, -1 if node.opset >= 13 else 1)


def _concat(node: NodeView) -> str | None:
    return f"{_axis(node)}{', with a constant' if node.constants else ''}"


def _reduce(node: NodeView) -> str | None:
    axes = _attribute(node, "axes", 1, list(range(_rank(node))))
    if axes is None:
        return None
    keep = "" if node.attributes.get("keepdims", 1) else ", keepdims 0"
    return f"axes {_axes(sorted(int(a) % _rank(node) for a in axes))}{keep}"


def _transpose(node: NodeView) -> str | None:
    order = node.attributes.get("perm", list(range(_rank(node)))[::-1])
    shape = node.features[0].shape or ()
    moved = [axis for axis in order if shape[axis] > 1]
    return UNIT_AXES_ONLY if moved == sorted(moved) else f"order {_axes(order)}"


def _to_rank(node: NodeView) -> str | None:
    before, after = node.features[0].shape or (), node.outputs[0].shape or ()
    if before == after:
        return "changes nothing"
    if tuple(n for n in before if n > 1) == tuple(n for n in after if n > 1):
        return f"to {len(after)}, {UNIT_AXES_ONLY}"
    channels = len(before) == len(after) == 4 and before[:2] == after[:2]
    return f"to {len(after)}{', channels kept' if channels else ''}"


def _slice(node: NodeView) -> str | None:
    axes, steps = _attribute(node, "axes", 3, None), _attribute(node, "steps", 4, [1])
    if axes is None or steps is None:
        return None
    step = "backwards" if min(steps) < 0 else "with steps" if max(steps) > 1 else "whole"
    return f"axes {_axes(sorted(int(a) % _rank(node) for a in axes))}, {step}"


def _pad(node: NodeView) -> str | None:
    pads = _attribute(node, "pads", 1, None)
    if pads is None:
        return None
    rank = len(pads) // 2
    used = sorted({i % rank for i, p in enumerate(pads) if p})
    value = node.inputs[2] if len(node.inputs) > 2 else None
    filled = ", a value" if value is not None and value.values is not None and value.values.any() else ""
    cut = ", cut" if min(pads) < 0 else ""
    return f"{_word(node.attributes.get('mode', 'constant'))}, axes {_axes(used)}{cut}{filled}"


def _gather(node: NodeView) -> str | None:
    index = _second(node)
    if index is None or index.shape is None:
        return None
    kind = "constant" if index.constant else "computed"
    return f"{_axis(node)}, {kind} index {len(index.shape)}-D"


def _resize(node: NodeView) -> str | None:
    before, after = node.features[0].shape or (), node.outputs[0].shape or ()
    if len(before) != len(after):
        return None
    factors = [b / a for a, b in zip(before, after, strict=True)]
    changed = [axis for axis, f in enumerate(factors) if f != 1]
    used = [factors[axis] for axis in changed] or [1.0]
    kinds = {"smaller" if f < 1 else "power of two" if f in (1, 2, 4, 8, 16) else "other" for f in used}
    uneven = ", H more" if len(before) == 4 and factors[2] > factors[3] else ""
    where = _word(node.attributes.get("coordinate_transformation_mode", "half_pixel"))
    mode = _word(node.attributes.get("mode", "nearest"))
    return f"{mode}, {where}, axes {_axes(changed)}, {' and '.join(sorted(kinds))}{uneven}"


def _conv(node: NodeView) -> str | None:
    weight = _second(node)
    if weight is None or weight.shape is None:
        return None
    groups = int(node.attributes.get("group", 1))
    channels = (node.features[0].shape or (1, 1))[1]
    kind = "one group" if groups == 1 else "depthwise" if groups == channels else "groups"
    dilated = _dilated(node)
    strided = ", strided" if dilated and max(node.attributes.get("strides", [1])) > 1 else ""
    return f"{kind}{dilated}{strided}{'' if weight.constant else ', computed weight'}"


def _dilated(node: NodeView) -> str:
    return ", dilated" if max(node.attributes.get("dilations", [1])) > 1 else ""


def _pool(node: NodeView) -> str | None:
    return f"{'ceil' if node.attributes.get('ceil_mode', 0) else 'floor'}{_dilated(node)}"


def _matmul(node: NodeView) -> str | None:
    left, right = node.inputs[:2]
    if left is None or right is None or left.shape is None or right.shape is None:
        return None
    return f"{_factor(left)} by {_factor(right)}"


def _factor(tensor: Tensor) -> str:
    shape = tensor.shape or ()
    many = "several " if any(n > 1 for n in shape[:-2]) else ""
    return f"{many}{len(shape)}-D{' constant' if tensor.constant else ''}"


def _gemm(node: NodeView) -> str | None:
    weight = _second(node)
    if weight is None:
        return None
    turned = ", transA" if node.attributes.get("transA", 0) else ""
    return f"{'constant' if weight.constant else 'computed'} weight{turned}"


def _cast(node: NodeView) -> str | None:
    return "of indices or a comparison" if set(node.producers) & _INDICES else ""


def _changed(node: NodeView) -> str | None:
    before, after = node.features[0].shape or (), node.outputs[0].shape or ()
    padded = (1,) * (len(after) - len(before)) + before
    return f"to {len(after)}, along {_axes([i for i, (a, b) in enumerate(zip(padded, after, strict=True)) if a != b])}"


def _blocks(node: NodeView) -> str | None:
    return _word(node.attributes.get("mode", "DCR")) if node.op == "DepthToSpace" else ""


_REDUCTIONS = "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSumExp"
_DETAILS: dict[str, Callable[[NodeView], str | None]] = {
    **dict.fromkeys(_REDUCTIONS.split(), _reduce),
    **dict.fromkeys(RESHAPES, _to_rank),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _softmax),
    **dict.fromkeys(("ArgMax", "ArgMin", "Split"), _axis),
    **dict.fromkeys(("TopK", "LpNormalization"), _last_axis),
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    **dict.fromkeys(("Tile", "Expand"), _changed),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _blocks),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    "Cast": _cast,
    "Concat": _concat,
    "Conv": _conv,
    "ConvTranspose": _conv,
    "Gather": _gather,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Pad": _pad,
    "Slice": _slice,
    "Transpose": _transpose,
}
