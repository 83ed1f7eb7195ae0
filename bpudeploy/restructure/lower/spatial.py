"""What acts on (N, C, H, W) as it is: convolutions, pools, resizes, paddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bpudeploy.restructure.atoms import Dims, new_axis, sizes
from bpudeploy.restructure.lower.affine import absorbed
from bpudeploy.restructure.lower.context import Lowering
from bpudeploy.restructure.lower.select import exposed, selected
from bpudeploy.restructure.value import Maker, Value


def native(ctx: Lowering, value: Value) -> Value:
    """Return ``value`` filled, with its axes as the physical ones; a rank of 3 gets a height of 1.

    What is pending stays so.
    """
    if len(value.axes) not in (3, 4):
        raise ctx.refuse(
            f"a tensor of rank {len(value.axes)}, {value.shape}", "only 2-D and 1-D networks have a 4-D form"
        )
    pending = value.pending
    if any(a not in value.stored for axis in value.axes for a in axis):
        value, pending = ctx.fill(value), None
    a, b, *rest = value.axes
    rows, columns = rest if len(rest) == 2 else ((), rest[0])
    return replace(ctx.relayout(value, (a, b, rows, columns)), pending=pending)


def _planar(numbers: Sequence[int], fill: int) -> list[int]:
    """Return one number for each of height and width; a 1-D operator has a height of one row."""
    return [fill, *numbers] if len(numbers) == 1 else list(numbers)


def _pads(numbers: Sequence[int]) -> list[int]:
    return [0, numbers[0], 0, numbers[1]] if len(numbers) == 2 else list(numbers)


def conv(ctx: Lowering) -> None:
    """Conv: a norm's end before it goes into its weights, if no padding stands between."""
    attributes, weight, bias = ctx.at.attributes, ctx.constant(1), ctx.constant(2)
    assert weight is not None
    value, line = native(ctx, ctx.value(0)), len(ctx.value(0).axes) == 3
    if line:
        weight = weight[:, :, None, :]
    kernel, group = list(weight.shape[2:]), int(attributes.get("group", 1))
    pads = _window_pads(ctx, value, kernel)
    maker_bias = None if bias is None else bias.astype(np.float64)
    if group == 1 and not (any(pads) and value.pending is not None and value.pending.shift.any()):
        value, weight, maker_bias = absorbed(ctx, value, value.dims[1], weight, maker_bias)
    value = ctx.settle(value)
    strides, dilations = (
        _planar(attributes.get("strides", [1] * (1 if line else 2)), 1),
        _planar(attributes.get("dilations", [1] * (1 if line else 2)), 1),
    )
    maker = Maker(
        value.name,
        weight.astype(np.float32, copy=False),
        None if maker_bias is None else maker_bias.astype(np.float32),
        (strides[0], strides[1]),
        (pads[0], pads[1], pads[2], pads[3]),
        (dilations[0], dilations[1]),
        group,
    )
    span = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    dims = _windowed(value, len(weight), span, strides, pads)
    ctx.bind(Value(ctx.convolve(maker, sizes(dims)), dims, _axes(dims, line), maker))


def _axes(dims: Dims, line: bool) -> tuple[Any, ...]:
    return (dims[0], dims[1], dims[3]) if line else dims


def _windowed(
    value: Value,
    channels: int | None,
    span: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    ceil: bool = False,
) -> Dims:
    """Return the layout after a window: atoms of an axis that a window does not change stay."""
    made = [value.dims[0], value.dims[1] if channels is None else new_axis(channels)]
    for i in (0, 1):
        n = sizes(value.dims)[2 + i]
        room = n + pads[i] + pads[2 + i] - span[i]
        out = (-(-room // strides[i]) if ceil else room // strides[i]) + 1
        if ceil and (out - 1) * strides[i] >= n + pads[i]:
            out -= 1
        unchanged = span[i] == 1 and strides[i] == 1 and out == n
        made.append(value.dims[2 + i] if unchanged else new_axis(out))
    return made[0], made[1], made[2], made[3]


def _window_pads(ctx: Lowering, value: Value, kernel: Sequence[int]) -> list[int]:
    """Return pads (top, left, bottom, right), resolving ``auto_pad``."""
    attributes = ctx.at.attributes
    auto = attributes.get("auto_pad", b"NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else auto
    if auto in ("NOTSET", ""):
        return _pads(attributes.get("pads", [0] * 4))
    if auto == "VALID":
        return [0] * 4
    strides = _planar(attributes.get("strides", [1, 1]), 1)
    dilations = _planar(attributes.get("dilations", [1, 1]), 1)
    begin, end = [], []
    for n, k, s, d in zip(sizes(value.dims)[2:], kernel, strides, dilations, strict=True):
        total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        small, large = total // 2, total - total // 2
        begin.append(large if auto == "SAME_LOWER" else small)
        end.append(small if auto == "SAME_LOWER" else large)
    return begin + end


def conv_transpose(ctx: Lowering) -> None:
    """ConvTranspose of images."""
    value, weight, bias = ctx.settle(native(ctx, ctx.value(0))), ctx.constant(1), ctx.constant(2)
    assert weight is not None
    attributes = ctx.at.attributes
    if (
        weight.ndim != 4
        or attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", "NOTSET")
        or "output_shape" in attributes
    ):
        raise ctx.refuse("it is not a plain 2-D one")
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    pads, extra, group = (
        attributes.get("pads", [0] * 4),
        attributes.get("output_padding", [0, 0]),
        int(attributes.get("group", 1)),
    )
    out = [
        s * (n - 1) + e + d * (k - 1) + 1 - pads[i] - pads[i + 2]
        for i, (n, k, s, d, e) in enumerate(
            zip(sizes(value.dims)[2:], weight.shape[2:], strides, dilations, extra, strict=True)
        )
    ]
    dims: Dims = (value.dims[0], new_axis(weight.shape[1] * group), new_axis(out[0]), new_axis(out[1]))
    inputs = [value.name, ctx.store(weight, "weight"), *([ctx.store(bias, "bias")] if bias is not None else [])]
    kept: dict[str, Any] = {
        "strides": list(strides),
        "pads": list(pads),
        "dilations": list(dilations),
        "group": group,
        "output_padding": list(extra),
    }
    name = ctx.emit("ConvTranspose", inputs, sizes(dims), kernel_shape=list(weight.shape[2:]), **kept)
    ctx.bind(Value(name, dims, dims))


def pool(ctx: Lowering) -> None:
    """MaxPool, AveragePool, LpPool."""
    given, attributes = ctx.value(), ctx.at.attributes
    value, line = ctx.settle(native(ctx, given)), len(given.axes) == 3
    kernel = _planar(attributes["kernel_shape"], 1)
    strides = _planar(attributes.get("strides", [1] * len(attributes["kernel_shape"])), 1)
    dilations = _planar(attributes.get("dilations", [1] * len(attributes["kernel_shape"])), 1)
    pads = _window_pads(ctx, value, kernel)
    span = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    dims = _windowed(value, None, span, strides, pads, bool(attributes.get("ceil_mode")))
    kept: dict[str, Any] = {k: int(attributes[k]) for k in ("ceil_mode", "count_include_pad", "p") if attributes.get(k)}
    if dilations != [1, 1]:
        kept["dilations"] = dilations
    name = ctx.emit(ctx.at.op, [value.name], sizes(dims), kernel_shape=kernel, strides=strides, pads=pads, **kept)
    ctx.bind(Value(name, dims, _axes(dims, line)))


def resize(ctx: Lowering) -> None:
    """Resize and Upsample by constant factors."""
    value, attributes = ctx.settle(native(ctx, ctx.value())), ctx.at.attributes
    if len(ctx.value().axes) != 4 or attributes.get("antialias"):
        raise ctx.refuse("only plain 2-D resizes have a form in opset 11")
    shape = sizes(value.dims)
    factors, goal = ctx.constant(2 if ctx.at.op == "Resize" else 1), ctx.constant(3) if ctx.at.op == "Resize" else None
    if goal is not None and goal.size:
        wanted = [int(n) for n in goal.reshape(-1)]
    else:
        assert factors is not None
        wanted = [int(np.floor(n * float(f))) for n, f in zip(shape, factors.reshape(-1), strict=True)]
    made = new_axis(wanted[2]), new_axis(wanted[3])
    dims: Dims = (value.dims[0], value.dims[1], *made)
    kept = {
        k: v
        for k, v in attributes.items()
        if k in ("mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a")
    }
    if ctx.at.op == "Upsample":
        kept |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    scales = ctx.store(np.array([a / b for a, b in zip(wanted, shape, strict=True)], np.float32), "factors")
    roi = ctx.store(np.zeros(0, np.float32), "roi")
    ctx.bind(Value(ctx.emit("Resize", [value.name, roi, scales], sizes(dims), **kept), dims, dims))


def pad(ctx: Lowering) -> None:
    """Pad: its amounts are an input; where there are none, nothing."""
    given = ctx.value()
    amounts = ctx.numbers("pads", 1)
    axes = ctx.constant(3)
    rank = len(given.axes)
    if axes is not None:
        full = [0] * (2 * rank)
        for i, axis in enumerate(axes.reshape(-1)):
            full[int(axis) % rank], full[int(axis) % rank + rank] = amounts[i], amounts[i + len(axes)]
        amounts = full
    fill = ctx.constant(2) if ctx.network.opset >= 11 else np.float32(ctx.at.attributes.get("value", 0.0))
    number = 0.0 if fill is None else float(np.asarray(fill).reshape(()))
    ctx.bind(padded(ctx, given, amounts, number, ctx.at.attributes.get("mode", b"constant")))


def padded(
    ctx: Lowering, given: Value, amounts: Sequence[int], fill: float = 0.0, mode: str | bytes = b"constant"
) -> Value:
    """Return ``given`` with ``amounts`` (begin of each axis, then end of each) around it; a negative one cuts."""
    rank = len(given.axes)
    for i in range(rank):
        cut = range(given.shape[i])[max(0, -amounts[i]) : given.shape[i] + min(0, amounts[i + rank])]
        given = selected(ctx, given, i, cut)
    amounts = [max(0, n) for n in amounts]
    wanted = [i for i in range(rank) if amounts[i] or amounts[i + rank]]
    if not wanted:
        return given
    value = ctx.settle(native_axes(ctx, given, wanted))
    physical, dims, axes = [0] * 8, list(value.dims), list(value.axes)
    for i in wanted:
        g = value.dims.index(value.axes[i])
        physical[g], physical[g + 4] = amounts[i], amounts[i + rank]
        dims[g] = axes[i] = new_axis(given.shape[i] + amounts[i] + amounts[i + rank])
    inputs = [value.name, ctx.vector(physical)]
    if fill:
        inputs.append(ctx.store(np.asarray(fill, np.float32).reshape(()), "fill"))
    name = ctx.emit("Pad", inputs, sizes(dims), mode=mode)
    return Value(name, (dims[0], dims[1], dims[2], dims[3]), tuple(axes))


def native_axes(ctx: Lowering, value: Value, wanted: Sequence[int]) -> Value:
    """Return ``value`` in a layout in which each of the ``wanted`` axes is a physical axis of its own."""
    for axis in wanted:
        if not value.axes[axis] or any(a not in value.stored for a in value.axes[axis]):
            value = ctx.fill(value)
    if len(value.axes) in (3, 4) and not all(value.axes[a] in value.dims for a in wanted):
        return native(ctx, value)
    for axis in wanted:
        value = exposed(ctx, value, value.axes[axis])
    if not all(value.axes[a] in value.dims for a in wanted):
        raise ctx.refuse(f"axes {list(wanted)} of {value.shape} do not fit four axes")
    return value
