"""Limits on axes, modes and how tensors are cut and joined."""

from __future__ import annotations

from collections.abc import Iterator

from bpudeploy.conformance.limits.base import (
    Case,
    Check,
    Finding,
    NotKnown,
    at_most,
    broken,
    numbers,
    operand,
    positive,
    shape,
    text,
    unchecked,
    word,
)
from bpudeploy.conformance.table import Rule

_DEFAULT_AXIS = {"Softmax": 1, "LogSoftmax": 1, "Concat": 0}


def _axis(case: Case) -> int:
    rank = len(shape(case.node.features[0]))
    default = _DEFAULT_AXIS.get(case.node.op, 0)
    if case.node.op in ("Softmax", "LogSoftmax") and case.node.opset >= 13:
        default = -1
    return positive(numbers(case, "axis", None, [default])[0], rank)


def _one_of(case: Case, allowed: tuple[int, ...]) -> Iterator[Finding]:
    found = _axis(case)
    if found not in allowed:
        yield broken(f"axis {found}, it must be {' or '.join(map(str, allowed))}")


def _axis_in(case: Case) -> Iterator[Finding]:
    assert case.limits.axis is not None
    yield from _one_of(case, case.limits.axis)


def _softmax_axis(case: Case) -> Iterator[Finding]:
    """ONNX's Softmax before opset 13 runs over all axes from ``axis`` on; since then it is torch's."""
    allowed = case.limits.torch_axis if case.node.opset >= 13 else case.limits.onnx_axis
    if allowed is not None:
        yield from _one_of(case, allowed)


def _not_axis(case: Case) -> Iterator[Finding]:
    if _axis(case) == case.limits.not_axis:
        yield broken(f"axis {case.limits.not_axis}, which it must not be")


def _axes(case: Case) -> Iterator[Finding]:
    if case.node.op == "Pad":
        yield from _pad_axes(case)
        return
    allowed = case.limits.axes
    if allowed is Rule.H_AND_W:
        before, after = shape(case.node.features[0]), shape(case.node.outputs[0])
        if before[:2] != after[:2]:
            yield broken(f"it changes {text(before)} to {text(after)}, only H and W may change")
        return
    assert isinstance(allowed, tuple)
    found = _reduced(case)
    if found != allowed:
        yield broken(f"axes {text(found)}, they must be {' and '.join(map(str, allowed))}")


def _pad_axes(case: Case) -> Iterator[Finding]:
    assert isinstance(case.limits.axes, tuple)
    pads = numbers(case, "pads", 1)
    rank = len(pads) // 2
    used = tuple(sorted({i % rank for i, p in enumerate(pads) if p}))
    if not set(used) <= set(case.limits.axes):
        yield broken(f"it pads axes {text(used)}, only {' and '.join(map(str, case.limits.axes))} may be padded")


def _reduced(case: Case) -> tuple[int, ...]:
    rank = len(shape(case.node.features[0]))
    found = numbers(case, "axes", 1, range(rank))
    return tuple(sorted(positive(a, rank) for a in found))


def _n_axes(case: Case) -> Iterator[Finding]:
    found, limit = _reduced(case), case.limits.n_axes
    assert limit is not None
    together = case.limits.axes_hw_together and found == (2, 3) and len(shape(case.node.features[0])) == 4
    if len(found) > limit and not together:
        yield broken(f"it reduces {len(found)} axes at once, the limit is {limit}")


def _keepdims(case: Case) -> Iterator[Finding]:
    if numbers(case, "keepdims", None, [1])[0] != case.limits.keepdims:
        yield broken(f"keepdims is not {case.limits.keepdims}")


def _max_axis(case: Case) -> Iterator[Finding]:
    assert case.limits.max_axis is not None
    size = shape(case.node.features[0])
    yield from at_most("size of the reduced axis", max(size[a] for a in _reduced(case)), case.limits.max_axis)


def _equal_parts(case: Case) -> Iterator[Finding]:
    axis = _axis(case)
    sizes = [shape(t)[axis] for t in case.node.outputs]
    if len(set(sizes)) > 1:
        yield broken(f"parts of {', '.join(map(str, sizes))}, they must be equal")


def _dims_changed(case: Case) -> Iterator[Finding]:
    limit = case.limits.dims_changed
    assert limit is not None
    before, after = shape(case.node.features[0]), shape(case.node.outputs[0])
    before = (1,) * (len(after) - len(before)) + before
    yield from at_most("dimensions that change", sum(a != b for a, b in zip(before, after, strict=True)), limit)


def _blocksize(case: Case) -> Iterator[Finding]:
    found = numbers(case, "blocksize", None)[0]
    if found != case.limits.blocksize:
        yield broken(f"blocksize {found}, it must be {case.limits.blocksize}")


def _mode(case: Case) -> Iterator[Finding]:
    allowed = case.limits.mode
    assert allowed is not None
    default = {"Pad": "constant", "Resize": "nearest"}.get(case.node.op, "bilinear")
    found = word(case, "mode", default)
    if found not in allowed:
        yield broken(f"mode {found}, it must be {' or '.join(allowed)}")


def _coord(case: Case) -> Iterator[Finding]:
    allowed, found = case.limits.coord, word(case, "coordinate_transformation_mode", "half_pixel")
    assert allowed is not None
    if found not in allowed:
        yield broken(f"coordinates {found}, they must be {' or '.join(allowed)}")


def _padding(case: Case) -> Iterator[Finding]:
    allowed, found = case.limits.padding, word(case, "padding_mode", "zeros")
    assert allowed is not None
    if found not in allowed:
        yield broken(f"padding {found}, it must be {' or '.join(allowed)}")


def _nearest_factor(case: Case) -> Iterator[Finding]:
    if word(case, "mode", "nearest") != "nearest":
        return
    before, after = shape(case.node.features[0])[2:], shape(case.node.outputs[0])[2:]
    factors = [a / b for a, b in zip(after, before, strict=True)]
    if any(f < 1 or f != int(f) or int(f) & (int(f) - 1) for f in factors):
        yield broken(f"factor {' and '.join(f'{f:g}' for f in factors)}, it must be a power of two")
    elif factors[0] > factors[1]:
        yield broken("the factor of H must not be above that of W")


def _indices(case: Case) -> Iterator[Finding]:
    if not operand(case, 1).constant:
        yield unchecked("indices that are not constant must be int32")


def _exponent(case: Case) -> Iterator[Finding]:
    tensor = operand(case, 1)
    if not tensor.constant:
        yield broken("the exponent is a feature map, it must be one number")
    elif volume_of(tensor.shape) != 1:
        yield broken(f"an exponent of shape {text(tensor.shape or ())}, it must be one number")


def volume_of(dims: tuple[int, ...] | None) -> int:
    """Return the number of elements.

    Raises:
        NotKnown: the shape is not known.
    """
    if dims is None:
        raise NotKnown("a shape is not known")
    count = 1
    for n in dims:
        count *= n
    return count


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
