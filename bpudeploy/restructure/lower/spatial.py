"""Lower operators on (N, C, H, W): convolutions, pools, resizes, paddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bpudeploy.restructure.atoms import Atoms, Dims, new_axis, sizes, with_dim
from bpudeploy.restructure.lower.affine import absorb_pending
from bpudeploy.restructure.lower.context import Lowering
from bpudeploy.restructure.lower.select import exposed, selected
from bpudeploy.restructure.value import Convolution, Value

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


@dataclass(frozen=True)
class _Window:
    """The sliding window of a convolution or pool; ``pads`` are (top, left, bottom, right)."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    pads: list[int]

    @property
    def span(self) -> list[int]:
        """Height and width of the dilated kernel."""
        return [d * (k - 1) + 1 for d, k in zip(self.dilations, self.kernel, strict=True)]

    def output_dims(self, value: Value, channels: int | None, *, ceil: bool = False) -> Dims:
        """Return the layout of the output; an axis that the window does not change keeps its atoms."""
        dims = value.dims if channels is None else with_dim(value.dims, 1, new_axis(channels))
        for i, (span, stride) in enumerate(zip(self.span, self.strides, strict=True)):
            n = sizes(value.dims)[2 + i]
            room = n + self.pads[i] + self.pads[2 + i] - span
            out = (-(-room // stride) if ceil else room // stride) + 1
            if ceil and (out - 1) * stride >= n + self.pads[i]:
                out -= 1
            if not (span == 1 and stride == 1 and out == n):
                dims = with_dim(dims, 2 + i, new_axis(out))
        return dims


def _window(ctx: Lowering, value: Value, kernel: Sequence[int]) -> _Window:
    """Return the operation's window over ``value``, with ``auto_pad`` resolved; 1-D operators get a height of 1."""
    attributes = ctx.node.attributes

    def planar(numbers: Sequence[int]) -> list[int]:
        return [1, *numbers] if len(numbers) == 1 else list(numbers)

    kernel = planar(kernel)
    strides, dilations = (planar(attributes.get(name, [1, 1])) for name in ("strides", "dilations"))
    auto = attributes.get("auto_pad", b"NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else auto
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
    return _Window(kernel, strides, dilations, pads)


def conv(ctx: Lowering) -> None:
    """Conv; a pending affine is folded into its weights if no padding intervenes."""
    weight, bias = ctx.constant(1), ctx.constant(2)
    assert weight is not None
    value, line = native(ctx, ctx.value(0)), len(ctx.value(0).axes) == 3
    if line:
        weight = weight[:, :, None, :]
    group, window = int(ctx.node.attributes.get("group", 1)), _window(ctx, value, weight.shape[2:])
    bias64 = None if bias is None else bias.astype(np.float64)
    if group == 1 and not (any(window.pads) and value.pending is not None and value.pending.shift.any()):
        value, weight, bias64 = absorb_pending(ctx, value, value.dims[1], weight, bias64)
    value = ctx.apply_pending(value)
    top, left, bottom, right = window.pads
    made = Convolution(
        value.name,
        weight.astype(np.float32, copy=False),
        None if bias64 is None else bias64.astype(np.float32),
        (window.strides[0], window.strides[1]),
        (top, left, bottom, right),
        (window.dilations[0], window.dilations[1]),
        group,
    )
    dims = window.output_dims(value, len(weight))
    ctx.bind(Value(ctx.convolve(made, sizes(dims)), dims, _axes(dims, line), made))


def _axes(dims: Dims, line: bool) -> tuple[Atoms, ...]:
    return (dims[0], dims[1], dims[3]) if line else dims


def conv_transpose(ctx: Lowering) -> None:
    """ConvTranspose, 2-D."""
    value, weight, bias = ctx.apply_pending(native(ctx, ctx.value(0))), ctx.constant(1), ctx.constant(2)
    assert weight is not None
    attributes = ctx.node.attributes
    explicit = attributes.get("auto_pad", b"NOTSET") in (b"NOTSET", "NOTSET") and "output_shape" not in attributes
    if weight.ndim != 4 or not explicit:
        raise ctx.unsupported("only 2-D ones with explicit pads are supported")
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    pads, extra = attributes.get("pads", [0] * 4), attributes.get("output_padding", [0, 0])
    group = int(attributes.get("group", 1))
    height, width = (
        strides[i] * (n - 1) + extra[i] + dilations[i] * (weight.shape[2 + i] - 1) + 1 - pads[i] - pads[i + 2]
        for i, n in enumerate(sizes(value.dims)[2:])
    )
    dims = (value.dims[0], new_axis(weight.shape[1] * group), new_axis(height), new_axis(width))
    inputs = [value.name, ctx.store(weight, "weight"), *([ctx.store(bias, "bias")] if bias is not None else [])]
    name = ctx.emit(
        "ConvTranspose",
        inputs,
        sizes(dims),
        kernel_shape=list(weight.shape[2:]),
        strides=list(strides),
        pads=list(pads),
        dilations=list(dilations),
        group=group,
        output_padding=list(extra),
    )
    ctx.bind(Value(name, dims, dims))


def pool(ctx: Lowering) -> None:
    """MaxPool, AveragePool, LpPool."""
    given, attributes = ctx.value(), ctx.node.attributes
    value, line = ctx.apply_pending(native(ctx, given)), len(given.axes) == 3
    window = _window(ctx, value, attributes["kernel_shape"])
    dims = window.output_dims(value, None, ceil=bool(attributes.get("ceil_mode")))
    kept: dict[str, Any] = {k: int(attributes[k]) for k in ("ceil_mode", "count_include_pad", "p") if attributes.get(k)}
    if window.dilations != [1, 1]:
        kept["dilations"] = window.dilations
    kept |= {"kernel_shape": window.kernel, "strides": window.strides, "pads": window.pads}
    ctx.bind(Value(ctx.emit(ctx.node.op, [value.name], sizes(dims), **kept), dims, _axes(dims, line)))


def resize(ctx: Lowering) -> None:
    """Resize and Upsample by constant factors."""
    value, attributes = ctx.apply_pending(native(ctx, ctx.value())), ctx.node.attributes
    if len(ctx.value().axes) != 4 or attributes.get("antialias"):
        raise ctx.unsupported("opset 11 supports only 2-D resizes without antialiasing")
    shape = sizes(value.dims)
    factors, goal = (
        ctx.constant(2 if ctx.node.op == "Resize" else 1),
        ctx.constant(3) if ctx.node.op == "Resize" else None,
    )
    if goal is not None and goal.size:
        wanted = [int(n) for n in goal.reshape(-1)]
    else:
        assert factors is not None
        wanted = [int(np.floor(n * float(f))) for n, f in zip(shape, factors.reshape(-1), strict=True)]
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
    axes = ctx.constant(3)
    rank = len(given.axes)
    if axes is not None:
        full = [0] * (2 * rank)
        for i, axis in enumerate(axes.reshape(-1)):
            full[int(axis) % rank], full[int(axis) % rank + rank] = amounts[i], amounts[i + len(axes)]
        amounts = full
    fill = ctx.constant(2) if ctx.network.opset >= 11 else np.float32(ctx.node.attributes.get("value", 0.0))
    number = 0.0 if fill is None else float(np.asarray(fill).reshape(()))
    ctx.bind(padded(ctx, given, amounts, number, ctx.node.attributes.get("mode", b"constant")))


def padded(
    ctx: Lowering, value: Value, amounts: Sequence[int], fill: float = 0.0, mode: str | bytes = b"constant"
) -> Value:
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
    return Value(name, (dims[0], dims[1], dims[2], dims[3]), tuple(axes))


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
