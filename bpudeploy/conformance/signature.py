"""The properties of a node that decide its placement, without sizes: the key into the measured placements."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bpudeploy.conformance.graph import Dims, NodeView, Tensor, UnknownValue, changed_axes
from bpudeploy.spec.operators import RESHAPES

_COMPARISONS = frozenset(["Equal", "Less", "Greater", "And", "Or", "Xor"])
_ARITHMETIC = frozenset(["Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "PRelu", "Mod", "Sum", "Mean", "Where"])
_ELEMENTWISE = _ARITHMETIC | _COMPARISONS
_INDICES = frozenset(["ArgMax", "ArgMin", "TopK", "Not", "NonZero", "Shape"]) | _COMPARISONS
UNIT_AXES_ONLY = "axes of 1 only"


def signature(node: NodeView) -> str | None:
    """Return the operator with its ranks, broadcasts and attributes, as in ``Add 4: same, channel constant``.

    None if a shape or value that it needs is unknown: such a node has no measured placement.
    """
    if node.domain or not node.features or any(t.shape is None for t in (*node.features, *node.outputs)):
        return None
    describe = _operands if node.op in _ELEMENTWISE else _DETAILS.get(node.op)
    try:
        details = describe(node) if describe is not None else ""
    except UnknownValue:
        return None
    return f"{node.op} {node.rank}{': ' if details else ''}{details}"


def _operands(node: NodeView) -> str:
    """Describe how each operand is broadcast to the output, and which are constants."""
    out = node.outputs[0].dims
    given = [t for t in node.inputs if t is not None]
    found = [_broadcast(t.dims, out) + (" constant" if t.constant else "") for t in given]
    if node.constants and node.producers and set(node.producers) <= {"Conv", "Gemm"}:
        found[-1] += ", after Conv"  # a constant can go into its weights and bias
    return f"{len(out)}: {', '.join(found)}" if len(out) != node.rank else ", ".join(found)


def _broadcast(dims: Dims, out: Dims) -> str:
    if len(dims) > len(out):
        raise UnknownValue("its output has fewer dimensions than an operand")
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
    return f"along {_axes(changed_axes(dims, out))}"


def _axes(axes: Iterable[int]) -> str:
    return "".join(map(str, axes)) or "none"


def _keepdims(node: NodeView) -> str:
    (keep,) = node.numbers("keepdims", default=[1])
    return f", keepdims {keep}" if keep != 1 else ""


def _axis(node: NodeView) -> str:
    return f"axis {node.axis % node.rank}{_keepdims(node)}"


def _concat(node: NodeView) -> str:
    return f"{_axis(node)}{', with a constant' if node.constants else ''}"


def _reduce(node: NodeView) -> str:
    return f"axes {_axes(node.reduced_axes)}{_keepdims(node)}"


def _transpose(node: NodeView) -> str:
    order = node.numbers("perm", default=reversed(range(node.rank)))
    moved = [axis for axis in order if node.features[0].dims[axis] > 1]
    return UNIT_AXES_ONLY if moved == sorted(moved) else f"order {_axes(order)}"


def _to_rank(node: NodeView) -> str:
    before, after = node.features[0].dims, node.outputs[0].dims
    if before == after:
        return "changes nothing"
    if [n for n in before if n > 1] == [n for n in after if n > 1]:
        return f"to {len(after)}, {UNIT_AXES_ONLY}"
    channels = len(before) == len(after) == 4 and before[:2] == after[:2]
    return f"to {len(after)}{', channels kept' if channels else ''}"


def _slice(node: NodeView) -> str:
    steps = node.numbers("steps", 4, [1])
    step = "backwards" if min(steps) < 0 else "with steps" if max(steps) > 1 else "whole"
    return f"axes {_axes(sorted(a % node.rank for a in node.numbers('axes', 3)))}, {step}"


def _pad(node: NodeView) -> str:
    value = node.inputs[2] if len(node.inputs) > 2 else None
    filled = ", a value" if value is not None and value.values is not None and value.values.any() else ""
    cut = ", cut" if min(node.numbers("pads", 1)) < 0 else ""
    return f"{node.attributes.get('mode', 'constant')}, axes {_axes(node.padded_axes)}{cut}{filled}"


def _gather(node: NodeView) -> str:
    index = node.operand(1)
    return f"{_axis(node)}, {'constant' if index.constant else 'computed'} index {len(index.dims)}-D"


def _resize(node: NodeView) -> str:
    factors = node.factors
    changed = [axis for axis, f in enumerate(factors) if f != 1]
    used = [factors[axis] for axis in changed] or [1.0]
    kinds = {"smaller" if f < 1 else "power of two" if f in (1, 2, 4, 8, 16) else "other" for f in used}
    uneven = ", H more" if len(factors) == 4 and factors[2] > factors[3] else ""
    where = node.attributes.get("coordinate_transformation_mode", "half_pixel")
    mode = node.attributes.get("mode", "nearest")
    return f"{mode}, {where}, axes {_axes(changed)}, {' and '.join(sorted(kinds))}{uneven}"


def _conv(node: NodeView) -> str:
    weight, (groups,) = node.operand(1), node.numbers("group", default=[1])
    if weight.shape is None:
        raise UnknownValue("unknown shape")
    kind = "one group" if groups == 1 else "depthwise" if groups == node.features[0].dims[1] else "groups"
    dilated = _dilated(node)
    strided = ", strided" if dilated and max(node.numbers("strides", default=[1])) > 1 else ""
    return f"{kind}{dilated}{strided}{'' if weight.constant else ', computed weight'}"


def _dilated(node: NodeView) -> str:
    return ", dilated" if max(node.numbers("dilations", default=[1])) > 1 else ""


def _pool(node: NodeView) -> str:
    return f"{'ceil' if node.attributes.get('ceil_mode', 0) else 'floor'}{_dilated(node)}"


def _matmul(node: NodeView) -> str:
    return f"{_factor(node.operand(0))} by {_factor(node.operand(1))}"


def _factor(tensor: Tensor) -> str:
    many = "several " if any(n > 1 for n in tensor.dims[:-2]) else ""
    return f"{many}{len(tensor.dims)}-D{' constant' if tensor.constant else ''}"


def _gemm(node: NodeView) -> str:
    turned = ", transA" if node.attributes.get("transA", 0) else ""
    return f"{'constant' if node.operand(1).constant else 'computed'} weight{turned}"


def _cast(node: NodeView) -> str:
    return "of indices or a comparison" if set(node.producers) & _INDICES else ""


def _changed(node: NodeView) -> str:
    after = node.outputs[0].dims
    return f"to {len(after)}, along {_axes(changed_axes(node.features[0].dims, after))}"


_REDUCTIONS = "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSumExp"
_ALONG_AN_AXIS = "Softmax LogSoftmax Hardmax ArgMax ArgMin Split TopK LpNormalization"
_DETAILS: dict[str, Callable[[NodeView], str]] = {
    **dict.fromkeys(_REDUCTIONS.split(), _reduce),
    **dict.fromkeys(RESHAPES, _to_rank),
    **dict.fromkeys(_ALONG_AN_AXIS.split(), _axis),
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    **dict.fromkeys(("Tile", "Expand"), _changed),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    "Cast": _cast,
    "Concat": _concat,
    "Conv": _conv,
    "ConvTranspose": _conv,
    "DepthToSpace": lambda node: node.attributes.get("mode", "DCR"),
    "Gather": _gather,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Pad": _pad,
    "Slice": _slice,
    "Transpose": _transpose,
}
