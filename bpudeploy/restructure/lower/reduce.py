"""Means, sums and norms over any axes: a 1x1 convolution over channels, a pool over pixels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bpudeploy.restructure.atoms import Atom, Atoms, Dims, flat, size, sizes
from bpudeploy.restructure.lower.affine import apply_affine
from bpudeploy.restructure.lower.context import Lowering
from bpudeploy.restructure.lower.elementwise import unary_of
from bpudeploy.restructure.lower.layouts import convolution_layout
from bpudeploy.restructure.lower.select import exposed
from bpudeploy.restructure.lower.views import reshaped
from bpudeploy.restructure.value import Maker, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray


def reduce(ctx: Lowering) -> None:
    """ReduceMean, -Sum, -SumSquare, -L1, -L2, -Max, -Min and the global pools."""
    op, given = ctx.at.op, ctx.value()
    rank = len(given.axes)
    if op.startswith("Global"):
        over, keep = list(range(2, rank)), True
    else:
        over = [n % rank for n in ctx.numbers("axes", 1)] or list(range(rank))
        keep = bool(ctx.at.attributes.get("keepdims", 1))
    count = size(flat(given.axes[i] for i in over))
    if op in ("ReduceMax", "ReduceMin", "GlobalMaxPool"):
        made = _extreme(ctx, given, over, "ReduceMin" if op == "ReduceMin" else "ReduceMax")
    else:
        value = given
        if op in ("ReduceL2", "ReduceSumSquare"):
            value = _square(ctx, value)
        elif op == "ReduceL1":
            value = unary_of(ctx, "Abs", value)
        made = mean(
            ctx,
            value,
            [given.axes[i] for i in over],
            1.0 if op in ("ReduceMean", "GlobalAveragePool") else float(count),
        )
        if op == "ReduceL2":
            made = unary_of(ctx, "Sqrt", made)
    axes = tuple(() if i in over else axis for i, axis in enumerate(made.axes)) if len(made.axes) == rank else made.axes
    ctx.bind(replace(made, axes=axes if keep else tuple(a for i, a in enumerate(axes) if i not in over)))


def _square(ctx: Lowering, value: Value) -> Value:
    value = ctx.settle(value)
    name = ctx.emit("Mul", [value.name, value.name], sizes(value.dims), "square", keep_float=True)
    return replace(value, name=name, maker=None)


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

    Over all of axis 1 it is Conv(x; 1/C), one output channel. Over height and width it is a global
    average pool. Axes that broadcast have nothing to average.
    """
    value = ctx.settle(value)
    gone = set(flat(axes))
    kept = tuple(() if axis and set(axis) <= gone else tuple(a for a in axis if a not in gone) for axis in value.axes)
    gone &= value.stored
    value = _arranged(ctx, value, gone)
    if set(value.dims[1]) & gone:
        value = _over_channels(ctx, value, factor, keep_float, bias)
        factor, bias = 1.0, 0.0
    value = _over_pixels(ctx, value, gone & value.stored, keep_float)
    value = replace(value, axes=kept, maker=None)
    if factor != 1.0 or bias:
        value = apply_affine(ctx, value, (), np.array(factor), np.array(bias))
    return value


def _arranged(ctx: Lowering, value: Value, gone: set[Atom]) -> Value:
    """Return ``value`` laid out so that each physical axis goes whole or stays whole, and axis 0 stays."""
    whole = all(not (set(g) & gone) or set(g) <= gone for g in value.dims)
    if whole and not set(value.dims[0]) & gone:
        return value
    order = flat(value.dims)
    inside = [i for i, a in enumerate(order) if a in gone]
    if inside and inside == list(range(inside[0], inside[-1] + 1)):
        return ctx.relayout(value, (order[: inside[0]], order[inside[0] : inside[-1] + 1], (), order[inside[-1] + 1 :]))
    return ctx.relayout(value, convolution_layout(value.dims, tuple(a for a in order if a in gone)))


def _over_channels(ctx: Lowering, value: Value, factor: float, keep_float: bool, bias: float) -> Value:
    channels = size(value.dims[1])
    weight = np.full((1, channels, 1, 1), factor / channels, np.float32)
    maker = Maker(value.name, weight, np.array([bias], np.float32) if bias else None)
    dims: Dims = (value.dims[0], (), value.dims[2], value.dims[3])
    name = ctx.convolve(maker, sizes(dims), "mean", keep_float=keep_float)
    return replace(value, name=name, dims=dims, maker=None)


def _over_pixels(ctx: Lowering, value: Value, gone: set[Atom], keep_float: bool) -> Value:
    places = [g for g in (2, 3) if set(value.dims[g]) & gone]
    if not places:
        return value
    dims: Dims = tuple(() if g in places else group for g, group in enumerate(value.dims))  # type: ignore[assignment]
    if dims[2] or dims[3]:
        name = ctx.emit("ReduceMean", [value.name], sizes(dims), "mean", axes=places, keepdims=1, keep_float=keep_float)
    else:
        name = ctx.emit("GlobalAveragePool", [value.name], sizes(dims), "pool", keep_float=keep_float)
    return replace(value, name=name, dims=dims, maker=None)


def _extreme(ctx: Lowering, value: Value, over: list[int], op: str) -> Value:
    value = ctx.settle(value)
    for index in over:
        atoms = tuple(a for a in value.axes[index] if a in value.stored)
        if atoms:
            value = exposed(ctx, value, atoms)
            g = value.dims.index(atoms)
            dims: Dims = tuple(() if i == g else group for i, group in enumerate(value.dims))  # type: ignore[assignment]
            value = replace(
                value, name=ctx.emit(op, [value.name], sizes(dims), axes=[g], keepdims=1), dims=dims, maker=None
            )
        value = replace(value, axes=tuple(() if i == index else a for i, a in enumerate(value.axes)))
    return value


def softmax(ctx: Lowering) -> None:
    """Softmax over what is put last in memory; before opset 13 the axes from ``axis`` on are one."""
    value = ctx.settle(ctx.value())
    old = ctx.network.opset < 13
    axis = int(ctx.at.attributes.get("axis", 1 if old else -1)) % len(value.axes)
    over = flat(value.axes[axis:]) if old else value.axes[axis]
    if any(a not in value.stored for a in over):
        value = ctx.fill(value)
    if set(value.dims[3]) != set(over):
        a, b, c, d = (tuple(x for x in group if x not in over) for group in value.dims)
        groups = (a, b, c + d) if not (c and d) or a or b else (b, c, d)
        value = ctx.relayout(value, (*groups, tuple(x for x in flat(value.dims) if x in over)))
    name = ctx.emit("Softmax", [value.name], sizes(value.dims), axis=3)
    made = replace(value, name=name, maker=None)
    if ctx.at.op == "LogSoftmax":
        made = unary_of(ctx, "Log", made)
    ctx.bind(made)


def layer_norm(ctx: Lowering) -> None:
    """LayerNormalization: (x - mean) / sqrt(var + ε) in convolution form; γ and β wait for the next convolution.

    With Σ over the normalised axes: c = x - Conv(x; 1/C), y = c · 1/sqrt(Conv(c²; 1/C) + ε). Where every
    writer of x can be centred, the rule ``centre`` takes the first part away again.
    """
    value, scale, shift = ctx.value(), ctx.constant(1), ctx.constant(2)
    axis = int(ctx.at.attributes.get("axis", -1)) % len(value.axes)
    atoms = flat(value.axes[axis:])
    made = normalised(ctx, value, value.axes[axis:], float(ctx.at.attributes.get("epsilon", 1e-5)))
    ctx.bind(_with_ends(ctx, made, atoms, scale, shift))


def instance_norm(ctx: Lowering) -> None:
    """InstanceNormalization: the same over height and width, each channel with its own γ and β."""
    value, scale, shift = ctx.value(), ctx.constant(1), ctx.constant(2)
    channels = value.axes[1]
    made = normalised(ctx, value, value.axes[2:], float(ctx.at.attributes.get("epsilon", 1e-5)))
    ctx.bind(_with_ends(ctx, made, channels, scale, shift))


def group_norm(ctx: Lowering) -> None:
    """GroupNormalization (opset 21): normalised over each group's channels and pixels."""
    value, scale, shift = ctx.value(), ctx.constant(1), ctx.constant(2)
    groups = int(ctx.at.attributes["num_groups"])
    n, channels, *rest = value.shape
    split = reshaped(ctx, value, [n, groups, channels // groups, *rest])
    made = normalised(ctx, split, split.axes[2:], float(ctx.at.attributes.get("epsilon", 1e-5)))
    made = replace(made, axes=(made.axes[0], made.axes[1] + made.axes[2], *made.axes[3:]))
    ctx.bind(_with_ends(ctx, made, made.axes[1], scale, shift))


def _with_ends(
    ctx: Lowering, value: Value, atoms: Atoms, scale: NDArray[np.generic] | None, shift: NDArray[np.generic] | None
) -> Value:
    one, zero = np.ones(size(atoms)), np.zeros(size(atoms))
    wide = [(plain if x is None else x.reshape(-1)).astype(np.float64) for x, plain in ((scale, one), (shift, zero))]
    return apply_affine(ctx, value, atoms, *wide)


def normalised(ctx: Lowering, value: Value, axes: Iterable[Atoms], eps: float) -> Value:
    """Return (x - mean) / sqrt(var + ``eps``) over ``axes``, all of it marked to stay in float."""
    value = ctx.fill(value)
    axes, logical = tuple(axes), value.axes
    value = _arranged(ctx, value, set(flat(axes)))
    shape = sizes(value.dims)
    middle = mean(ctx, value, axes, keep_float=True)
    centred = replace(
        value, name=ctx.emit("Sub", [value.name, middle.name], shape, "centred", keep_float=True), maker=None
    )
    square = replace(centred, name=ctx.emit("Mul", [centred.name, centred.name], shape, "square", keep_float=True))
    variance = ctx.settle(mean(ctx, square, axes, keep_float=True, bias=eps))
    small = sizes(variance.dims)
    root = ctx.emit("Sqrt", [variance.name], small, "sqrt", keep_float=True)
    inverse = ctx.emit("Reciprocal", [root], small, "rsqrt", keep_float=True)
    name = ctx.emit("Mul", [centred.name, inverse], shape, "norm", keep_float=True)
    return replace(centred, name=name, axes=logical)


def batch_norm(ctx: Lowering) -> None:
    """BatchNormalization in evaluation: a scale and a shift by channel, into a convolution before or after."""
    value = ctx.value()
    gamma, beta, middle, variance = (np.asarray(ctx.constant(i), np.float64) for i in (1, 2, 3, 4))
    scale = gamma / np.sqrt(variance + float(ctx.at.attributes.get("epsilon", 1e-5)))
    ctx.bind(apply_affine(ctx, value, value.axes[1], scale, beta - middle * scale))
