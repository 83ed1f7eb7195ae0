"""Lower operators on (N, C, H, W): convolutions, pools, resizes, paddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from bpudeploy.restructure.atoms import Atoms, Dims, new_axis, sizes, with_axis
from bpudeploy.restructure.lower.affine import absorb_pending
from bpudeploy.restructure.lower.context import Lowering
from bpudeploy.restructure.lower.select import exposed, selected
from bpudeploy.restructure.value import Convolution, Value, Window

_RESIZE_ATTRIBUTES = ("mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a")


def native(ctx: Lowering, value: Value) -> Value:
    """Return ``value`` with its axes as physical axes, none broadcast; rank 3 gets a height of 1.

    A pending affine is kept if possible.
    """
    if len(value.axes) not in (3, 4):
        raise ctx.unsupported(
            f"a tensor of rank {len(value.axes)}, {value.shape}", "only 2-D and 1-D networks have a 4-D form"
        )
    pending = value.pending
    if any(a not in value.stored for axis in value.axes for a in axis):
        value, pending = ctx.materialize(value), None
    a, b, *rest = value.axes
    rows, columns = rest if len(rest) == 2 else ((), rest[0])
    return replace(ctx.relayout(value, (a, b, rows, columns)), pending=pending)


def _window(ctx: Lowering, value: Value, kernel: Sequence[int]) -> Window:
    """Return the operation's window over ``value``, with ``auto_pad`` resolved; 1-D operators get a height of 1."""
    attributes = ctx.node.attributes

    def planar(numbers: Sequence[int]) -> list[int]:
        return [1, *numbers] if len(numbers) == 1 else list(numbers)

    kernel = planar(kernel)
    strides, dilations = (planar(attributes.get(name, [1, 1])) for name in ("strides", "dilations"))
    auto = attributes.get("auto_pad", "NOTSET")
    pads = [0] * 4
    if auto in ("NOTSET", ""):
        given = attributes.get("pads", pads)
        pads = [0, given[0], 0, given[1]] if len(given) == 2 else list(given)
    elif auto != "VALID":
        for i, n in enumerate(sizes(value.dims)[2:]):
            stride = strides[i]
            total = max((-(-n // stride) - 1) * stride + dilations[i] * (kernel[i] - 1) + 1 - n, 0)
            small, large = total // 2, total - total // 2
            pads[i], pads[2 + i] = (large, small) if auto == "SAME_LOWER" else (small, large)
    return Window(kernel, strides, dilations, pads)


def conv(ctx: Lowering) -> None:
    """Conv; a pending affine is folded into its weights if no padding intervenes."""
    weight, bias = ctx.constant(1), ctx.optional(2)
    value, line = native(ctx, ctx.value(0)), len(ctx.value(0).axes) == 3
    if line:
        weight = weight[:, :, None, :]
    group, window = int(ctx.node.attributes.get("group", 1)), _window(ctx, value, weight.shape[2:])
    vector = np.zeros(len(weight)) if bias is None else bias.astype(np.float64)
    if group == 1 and not (any(window.pads) and value.pending is not None and value.pending.shift.any()):
        value, weight, vector = absorb_pending(ctx, value, value.dims[1], weight, vector)
    value = ctx.apply_pending(value)
    kernel = weight.astype(np.float32, copy=False)
    made = Convolution(value.name, kernel, vector.astype(np.float32), window, group)
    dims = window.output_dims(with_axis(value.dims, 1, new_axis(len(weight))))
    ctx.bind(Value(ctx.convolve(made, sizes(dims)), dims, _axes(dims, line), made))


def _axes(dims: Dims, line: bool) -> tuple[Atoms, ...]:
    return (dims[0], dims[1], dims[3]) if line else dims


def conv_transpose(ctx: Lowering) -> None:
    """ConvTranspose, 2-D."""
    value, weight, bias = ctx.apply_pending(native(ctx, ctx.value(0))), ctx.constant(1), ctx.optional(2)
    attributes = ctx.node.attributes
    explicit = attributes.get("auto_pad", "NOTSET") == "NOTSET" and "output_shape" not in attributes
    if weight.ndim != 4 or not explicit:
        raise ctx.unsupported("only 2-D ones with explicit pads are supported")
    window, group = _window(ctx, value, weight.shape[2:]), int(attributes.get("group", 1))
    extra = list(attributes.get("output_padding", [0, 0]))
    height, width = (
        window.strides[i] * (n - 1) + extra[i] + window.span[i] - window.pads[i] - window.pads[i + 2]
        for i, n in enumerate(sizes(value.dims)[2:])
    )
    dims = (value.dims[0], new_axis(weight.shape[1] * group), new_axis(height), new_axis(width))
    inputs = [value.name, ctx.store(weight, "weight"), *([ctx.store(bias, "bias")] if bias is not None else [])]
    kept = asdict(window) | {"group": group, "output_padding": extra}
    ctx.bind(Value(ctx.emit("ConvTranspose", inputs, sizes(dims), **kept), dims, dims))


def pool(ctx: Lowering) -> None:
    """MaxPool, AveragePool, LpPool."""
    given, attributes = ctx.value(), ctx.node.attributes
    value, line = ctx.apply_pending(native(ctx, given)), len(given.axes) == 3
    window = _window(ctx, value, attributes["kernel_shape"])
    dims = window.output_dims(value.dims, ceil=bool(attributes.get("ceil_mode")))
    kept: dict[str, Any] = {k: int(attributes[k]) for k in ("ceil_mode", "count_include_pad", "p") if attributes.get(k)}
    kept |= {k: v for k, v in asdict(window).items() if k != "dilations" or v != [1, 1]}
    ctx.bind(Value(ctx.emit(ctx.node.op, [value.name], sizes(dims), **kept), dims, _axes(dims, line)))


def resize(ctx: Lowering) -> None:
    """Resize and Upsample by constant factors."""
    value, attributes = ctx.apply_pending(native(ctx, ctx.value())), ctx.node.attributes
    if len(ctx.value().axes) != 4 or attributes.get("antialias"):
        raise ctx.unsupported("opset 11 supports only 2-D resizes without antialiasing")
    shape = sizes(value.dims)
    goal = ctx.numbers("sizes", 3)  # Upsample has two inputs
    if goal:
        wanted = goal
    else:
        factors = ctx.constant(2 if ctx.node.op == "Resize" else 1).reshape(-1)
        wanted = [int(np.floor(n * float(f))) for n, f in zip(shape, factors, strict=True)]
    dims = (value.dims[0], value.dims[1], new_axis(wanted[2]), new_axis(wanted[3]))
    kept = {k: v for k, v in attributes.items() if k in _RESIZE_ATTRIBUTES}
    if ctx.node.op == "Upsample":
        kept |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    scales = ctx.store(np.array([a / b for a, b in zip(wanted, shape, strict=True)], np.float32), "factors")
    roi = ctx.store(np.zeros(0, np.float32), "roi")
    ctx.bind(Value(ctx.emit("Resize", [value.name, roi, scales], sizes(dims), **kept), dims, dims))


def pad(ctx: Lowering) -> None:
    """Pad by constant amounts."""
    given = ctx.value()
    amounts = ctx.numbers("pads", 1)
    axes = ctx.optional(3)
    rank = len(given.axes)
    if axes is not None:
        full = [0] * (2 * rank)
        for i, axis in enumerate(axes.reshape(-1)):
            full[int(axis) % rank], full[int(axis) % rank + rank] = amounts[i], amounts[i + len(axes)]
        amounts = full
    fill = ctx.optional(2) if ctx.network.opset >= 11 else np.float32(ctx.node.attributes.get("value", 0.0))
    number = 0.0 if fill is None else float(np.asarray(fill).reshape(()))
    ctx.bind(padded(ctx, given, amounts, number, ctx.node.attributes.get("mode", "constant")))


def padded(ctx: Lowering, value: Value, amounts: Sequence[int], fill: float = 0.0, mode: str = "constant") -> Value:
    """Return ``value`` padded by ``amounts`` (all begins, then all ends); negative amounts crop."""
    rank = len(value.axes)
    for i in range(rank):
        cropped = range(value.shape[i])[max(0, -amounts[i]) : value.shape[i] + min(0, amounts[i + rank])]
        value = selected(ctx, value, i, cropped)
    amounts = [max(0, n) for n in amounts]
    wanted = [i for i in range(rank) if amounts[i] or amounts[i + rank]]
    if not wanted:
        return value
    shape, value = value.shape, ctx.apply_pending(native_axes(ctx, value, wanted))
    physical, dims, axes = [0] * 8, list(value.dims), list(value.axes)
    for i in wanted:
        g = value.dims.index(value.axes[i])
        physical[g], physical[g + 4] = amounts[i], amounts[i + rank]
        dims[g] = axes[i] = new_axis(shape[i] + amounts[i] + amounts[i + rank])
    inputs = [value.name, ctx.vector(physical)]
    if fill:
        inputs.append(ctx.store(np.asarray(fill, np.float32).reshape(()), "fill"))
    name = ctx.emit("Pad", inputs, sizes(dims), mode=mode)
    return Value(name, tuple(dims), tuple(axes))


def native_axes(ctx: Lowering, value: Value, wanted: Sequence[int]) -> Value:
    """Return ``value`` in a layout in which each of the ``wanted`` axes is a whole physical axis."""
    for axis in wanted:
        if not value.axes[axis] or any(a not in value.stored for a in value.axes[axis]):
            value = ctx.materialize(value)
    if len(value.axes) in (3, 4) and not all(value.axes[a] in value.dims for a in wanted):
        return native(ctx, value)
    for axis in wanted:
        value = exposed(ctx, value, value.axes[axis])
    if not all(value.axes[a] in value.dims for a in wanted):
        raise ctx.unsupported(f"axes {list(wanted)} of {value.shape} do not fit four axes")
    return value
