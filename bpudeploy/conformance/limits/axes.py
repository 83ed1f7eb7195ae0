"""Limits on axes, modes and how tensors are split and joined."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from bpudeploy.conformance.limits.base import (
    Case,
    Check,
    LimitFinding,
    at_most,
    broken,
    numbers,
    one_of,
    operand,
    positive,
    shape,
    text,
    unchecked,
    word,
)
from bpudeploy.conformance.table import Rule

_DEFAULT_AXIS = {"Softmax": 1, "LogSoftmax": 1}


def _axis(case: Case) -> int:
    default = _DEFAULT_AXIS.get(case.node.op, 0)
    if case.node.op in ("Softmax", "LogSoftmax") and case.node.opset >= 13:
        default = -1
    return positive(numbers(case, "axis", None, [default])[0], len(shape(case.node.features[0])))


def _axis_in(case: Case, allowed: tuple[int, ...]) -> Iterator[LimitFinding]:
    yield from one_of("axis", _axis(case), allowed)


def _softmax_axis(case: Case, before_13: tuple[int, ...]) -> Iterator[LimitFinding]:
    """Before opset 13, ONNX's Softmax runs over all axes from ``axis`` on; since then, over one, as in torch."""
    allowed = case.limits.torch_axis if case.node.opset >= 13 else before_13
    if allowed is not None:
        yield from one_of("axis", _axis(case), allowed)


def _not_axis(case: Case, forbidden: int) -> Iterator[LimitFinding]:
    if _axis(case) == forbidden:
        yield broken(f"axis {forbidden} is not supported")


def _axes(case: Case, allowed: tuple[int, ...] | Rule) -> Iterator[LimitFinding]:
    if isinstance(allowed, Rule):
        assert allowed is Rule.H_AND_W
        before, after = shape(case.node.features[0]), shape(case.node.outputs[0])
        if before[:2] != after[:2]:
            yield broken(f"it changes {text(before)} to {text(after)}, only H and W may change")
        return
    wanted = " and ".join(map(str, allowed))
    if case.node.op == "Pad":
        pads = numbers(case, "pads", 1)
        padded = sorted({i % (len(pads) // 2) for i, p in enumerate(pads) if p})
        if not set(padded) <= set(allowed):
            yield broken(f"it pads axes {text(padded)}, only {wanted} may be padded")
    elif (found := _reduced(case)) != allowed:
        yield broken(f"axes {text(found)}, must be {wanted}")


def _reduced(case: Case) -> tuple[int, ...]:
    rank = len(shape(case.node.features[0]))
    return tuple(sorted(positive(a, rank) for a in numbers(case, "axes", 1, range(rank))))


def _n_axes(case: Case, limit: int) -> Iterator[LimitFinding]:
    found = _reduced(case)
    together = case.limits.axes_hw_together and found == (2, 3) and len(shape(case.node.features[0])) == 4
    if len(found) > limit and not together:
        yield broken(f"it reduces {len(found)} axes at once, the limit is {limit}")


def _keepdims(case: Case, wanted: int) -> Iterator[LimitFinding]:
    yield from one_of("keepdims", numbers(case, "keepdims", None, [1])[0], (wanted,))


def _max_axis(case: Case, limit: int) -> Iterator[LimitFinding]:
    size = shape(case.node.features[0])
    yield from at_most("size of the reduced axis", max(size[a] for a in _reduced(case)), limit)


def _equal_parts(case: Case, _: bool) -> Iterator[LimitFinding]:
    axis = _axis(case)
    sizes = [shape(t)[axis] for t in case.node.outputs]
    if len(set(sizes)) > 1:
        yield broken(f"parts of {', '.join(map(str, sizes))}, must be equal")


def _dims_changed(case: Case, limit: int) -> Iterator[LimitFinding]:
    before, after = shape(case.node.features[0]), shape(case.node.outputs[0])
    before = (1,) * (len(after) - len(before)) + before
    yield from at_most("dimensions that change", sum(a != b for a, b in zip(before, after, strict=True)), limit)


def _blocksize(case: Case, wanted: int) -> Iterator[LimitFinding]:
    yield from one_of("blocksize", numbers(case, "blocksize", None)[0], (wanted,))


def _mode(case: Case, allowed: tuple[str, ...]) -> Iterator[LimitFinding]:
    default = {"Pad": "constant", "Resize": "nearest"}.get(case.node.op, "bilinear")
    yield from one_of("mode", word(case, "mode", default), allowed)


def _coord(case: Case, allowed: tuple[str, ...]) -> Iterator[LimitFinding]:
    yield from one_of("coordinates", word(case, "coordinate_transformation_mode", "half_pixel"), allowed)


def _padding(case: Case, allowed: tuple[str, ...]) -> Iterator[LimitFinding]:
    yield from one_of("padding", word(case, "padding_mode", "zeros"), allowed)


def _nearest_factor(case: Case, _: Rule) -> Iterator[LimitFinding]:
    if word(case, "mode", "nearest") != "nearest":
        return
    before, after = shape(case.node.features[0])[2:], shape(case.node.outputs[0])[2:]
    factors = [a / b for a, b in zip(after, before, strict=True)]
    if any(f < 1 or f != int(f) or int(f) & (int(f) - 1) for f in factors):
        yield broken(f"factor {' and '.join(f'{f:g}' for f in factors)}, must be a power of two")
    elif factors[0] > factors[1]:
        yield broken("the factor of H must not exceed that of W")


def _indices(case: Case, _: Rule) -> Iterator[LimitFinding]:
    if not operand(case, 1).constant:
        yield unchecked("indices that are not constant must be int32")


def _exponent(case: Case, _: Rule) -> Iterator[LimitFinding]:
    tensor = operand(case, 1)
    if not tensor.constant:
        yield broken("the exponent is a feature map, must be one number")
    elif prod(dims := shape(tensor)) != 1:
        yield broken(f"exponent of shape {text(dims)}, must be one number")


CHECKS: dict[str, Check] = {
    "axis": _axis_in,
    "onnx_axis": _softmax_axis,
    "not_axis": _not_axis,
    "axes": _axes,
    "n_axes": _n_axes,
    "keepdims": _keepdims,
    "max_axis": _max_axis,
    "equal_parts": _equal_parts,
    "dims_changed": _dims_changed,
    "blocksize": _blocksize,
    "mode": _mode,
    "coord": _coord,
    "padding": _padding,
    "nearest_factor": _nearest_factor,
    "indices": _indices,
    "exponent": _exponent,
}
