"""Lower reductions and norms over any axes: a 1x1 convolution over channels, a pool over pixels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from bpudeploy.restructure.atoms import Atom, Atoms, flat, size, sizes, with_axis
from bpudeploy.restructure.lower.affine import apply_affine
from bpudeploy.restructure.lower.context import Lowering
from bpudeploy.restructure.lower.elementwise import elementwise, square
from bpudeploy.restructure.lower.layouts import convolution_layout
from bpudeploy.restructure.lower.select import exposed
from bpudeploy.restructure.lower.views import reshaped
from bpudeploy.restructure.value import Convolution, Value


def reduce(ctx: Lowering) -> None:
    """ReduceMean, -Sum, -SumSquare, -L1, -L2, -Max, -Min and the global pools."""
    op, value = ctx.node.op, ctx.value()
    rank = len(value.axes)
    if op.startswith("Global"):
        over, keep = list(range(2, rank)), True
    else:
        over = [n % rank for n in ctx.numbers("axes", 1)] or list(range(rank))
        keep = bool(ctx.node.attributes.get("keepdims", 1))
    axes = [value.axes[i] for i in over]
    count = size(flat(axes))
    if op in ("ReduceMax", "ReduceMin", "GlobalMaxPool"):
        value = _extreme(ctx, value, over, "ReduceMin" if op == "ReduceMin" else "ReduceMax")
    else:
        if op in ("ReduceL2", "ReduceSumSquare"):
            value = square(ctx, value)
        elif op == "ReduceL1":
            value = elementwise(ctx, "Abs", value)
        value = mean(ctx, value, axes, 1.0 if op in ("ReduceMean", "GlobalAveragePool") else float(count))
        if op == "ReduceL2":
            value = elementwise(ctx, "Sqrt", value)
    kept = value.axes if keep else tuple(axis for i, axis in enumerate(value.axes) if i not in over)
    ctx.bind(replace(value, axes=kept))


def mean(
    ctx: Lowering,
    value: Value,
    axes: Iterable[Atoms],
    factor: float = 1.0,
    *,
    keep_float: bool = False,
    bias: float = 0.0,
) -> Value:
    """Return the mean of ``value`` over ``axes``, times ``factor``, plus ``bias``; those axes become empty.

    Over channels it is Conv(x; 1/C) with one output channel; over height and width, a global average pool.
    """
    value = ctx.apply_pending(value)
    reduced = set(flat(axes))
    kept = tuple(
        () if axis and set(axis) <= reduced else tuple(a for a in axis if a not in reduced) for axis in value.axes
    )
    reduced &= value.stored
    value = _arranged(ctx, value, reduced)
    if set(value.dims[1]) & reduced:
        value = _over_channels(ctx, value, factor, keep_float, bias)
        factor, bias = 1.0, 0.0
    value = _over_pixels(ctx, value, reduced & value.stored, keep_float)
    value = replace(value, axes=kept, producer=None)
    if factor != 1.0 or bias:
        value = apply_affine(ctx, value, (), np.array(factor), np.array(bias))
    return value


def _arranged(ctx: Lowering, value: Value, reduced: set[Atom]) -> Value:
    """Return ``value`` in a layout where each physical axis is reduced entirely or kept, and axis 0 is kept."""
    whole = all(not (set(g) & reduced) or set(g) <= reduced for g in value.dims)
    if whole and not set(value.dims[0]) & reduced:
        return value
    order = flat(value.dims)
    inside = [i for i, a in enumerate(order) if a in reduced]
    if inside and inside == list(range(inside[0], inside[-1] + 1)):
        return ctx.relayout(value, (order[: inside[0]], order[inside[0] : inside[-1] + 1], (), order[inside[-1] + 1 :]))
    return ctx.relayout(value, convolution_layout(value.dims, tuple(a for a in order if a in reduced)))


def _over_channels(ctx: Lowering, value: Value, factor: float, keep_float: bool, bias: float) -> Value:
    channels = size(value.dims[1])
    weight = np.full((1, channels, 1, 1), factor / channels, np.float32)
    conv = Convolution(value.name, weight, np.array([bias], np.float32))
    dims = with_axis(value.dims, 1, ())
    return value.stored_as(ctx.convolve(conv, sizes(dims), "mean", keep_float=keep_float), dims)


def _over_pixels(ctx: Lowering, value: Value, reduced: set[Atom], keep_float: bool) -> Value:
    physical = [g for g in (2, 3) if set(value.dims[g]) & reduced]
    if not physical:
        return value
    dims = value.dims
    for g in physical:
        dims = with_axis(dims, g, ())
    inputs, shape = [value.name], sizes(dims)
    if dims[2] or dims[3]:
        name = ctx.emit("ReduceMean", inputs, shape, "mean", axes=physical, keepdims=1, keep_float=keep_float)
    else:
        name = ctx.emit("GlobalAveragePool", inputs, shape, "pool", keep_float=keep_float)
    return value.stored_as(name, dims)


def _extreme(ctx: Lowering, value: Value, over: list[int], op: str) -> Value:
    value = ctx.apply_pending(value)
    for index in over:
        atoms = tuple(a for a in value.axes[index] if a in value.stored)
        if atoms:
            value = exposed(ctx, value, atoms)
            g = value.dims.index(atoms)
            dims = with_axis(value.dims, g, ())
            value = value.stored_as(ctx.emit(op, [value.name], sizes(dims), axes=[g], keepdims=1), dims)
        value = replace(value, axes=with_axis(value.axes, index, ()))
    return value


def softmax(ctx: Lowering) -> None:
    """Softmax, over the last physical axis; before opset 13 it is over all axes from ``axis`` on."""
    value = ctx.apply_pending(ctx.value())
    old = ctx.network.opset < 13
    axis = int(ctx.node.attributes.get("axis", 1 if old else -1)) % len(value.axes)
    over = flat(value.axes[axis:]) if old else value.axes[axis]
    if any(a not in value.stored for a in over):
        value = ctx.materialize(value)
    if set(value.dims[3]) != set(over):
        a, b, c, d = (tuple(x for x in group if x not in over) for group in value.dims)
        groups = (a, b, c + d) if not (c and d) or a or b else (b, c, d)
        value = ctx.relayout(value, (*groups, tuple(x for x in flat(value.dims) if x in over)))
    value = elementwise(ctx, "Softmax", value, axis=3)
    ctx.bind(elementwise(ctx, "Log", value) if ctx.node.op == "LogSoftmax" else value)


def layer_norm(ctx: Lowering) -> None:
    """LayerNormalization by convolutions; γ and β are folded into the next convolution.

    c = x - Conv(x; 1/C), y = c · 1/sqrt(Conv(c²; 1/C) + ε). The rule ``centre`` removes the subtraction if every
    producer of x can be centred.
    """
    value = ctx.value()
    axes = value.axes[int(ctx.node.attributes.get("axis", -1)) % len(value.axes) :]
    _bind_scaled(ctx, _normalised(ctx, value, axes), flat(axes))


def instance_norm(ctx: Lowering) -> None:
    """InstanceNormalization: normalised over height and width, with γ and β per channel."""
    value = ctx.value()
    _bind_scaled(ctx, _normalised(ctx, value, value.axes[2:]), value.axes[1])


def group_norm(ctx: Lowering) -> None:
    """GroupNormalization (opset 21): normalised over the channels and pixels of each group."""
    value = ctx.value()
    groups = int(ctx.node.attributes["num_groups"])
    n, channels, *rest = value.shape
    split = reshaped(ctx, value, [n, groups, channels // groups, *rest])
    value = _normalised(ctx, split, split.axes[2:])
    value = replace(value, axes=(value.axes[0], value.axes[1] + value.axes[2], *value.axes[3:]))
    _bind_scaled(ctx, value, value.axes[1])


def _bind_scaled(ctx: Lowering, value: Value, atoms: Atoms) -> None:
    """Bind ``value`` · γ + β, which are the operation's inputs 1 and 2, row-major over ``atoms``."""
    gamma, beta = ctx.optional(1), ctx.optional(2)
    scale = np.ones(size(atoms)) if gamma is None else gamma.reshape(-1).astype(np.float64)
    shift = np.zeros(size(atoms)) if beta is None else beta.reshape(-1).astype(np.float64)
    ctx.bind(apply_affine(ctx, value, atoms, scale, shift))


def _normalised(ctx: Lowering, value: Value, axes: tuple[Atoms, ...]) -> Value:
    """Return (x - mean) / sqrt(var + ε) over ``axes``; what it is computed from is marked to stay in float."""
    value = ctx.materialize(value)
    arranged = _arranged(ctx, value, set(flat(axes)))
    average = mean(ctx, arranged, axes, keep_float=True)
    centred = elementwise(ctx, "Sub", arranged, average.name, suffix="centred", keep_float=True)
    eps = float(ctx.node.attributes.get("epsilon", 1e-5))
    variance = mean(ctx, square(ctx, centred), axes, keep_float=True, bias=eps)
    root = elementwise(ctx, "Sqrt", variance, suffix="sqrt", keep_float=True)
    inverse = elementwise(ctx, "Reciprocal", root, suffix="rsqrt", keep_float=True)
    normalised = elementwise(ctx, "Mul", centred, inverse.name, suffix="norm")
    return replace(normalised, axes=value.axes)


def batch_norm(ctx: Lowering) -> None:
    """BatchNormalization at inference: a scale and shift per channel, folded into a convolution."""
    value = ctx.value()
    gamma, beta, average, variance = (np.asarray(ctx.constant(i), np.float64) for i in (1, 2, 3, 4))
    scale = gamma / np.sqrt(variance + float(ctx.node.attributes.get("epsilon", 1e-5)))
    ctx.bind(apply_affine(ctx, value, value.axes[1], scale, beta - average * scale))
