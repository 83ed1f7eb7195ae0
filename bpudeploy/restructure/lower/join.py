"""Concat: rows of one convolution where all parts come from the same input, else a Concat in one layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bpudeploy.restructure.atoms import Atoms, Dims, flat, new_axis, size, sizes
from bpudeploy.restructure.lower.context import Lowering, spread
from bpudeploy.restructure.lower.layouts import exposing_layout
from bpudeploy.restructure.moves import move_array
from bpudeploy.restructure.value import Maker, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

Part = Value | np.ndarray[Any, Any]


def concat(ctx: Lowering) -> None:
    """Concat along one axis; constants among the parts (class tokens) are prepared offline."""
    parts = [part for i in range(len(ctx.at.inputs)) if (part := ctx.get(i)) is not None]
    parts = [p for p in parts if not isinstance(p, np.ndarray) or p.size]
    values = [p for p in parts if isinstance(p, Value)]
    axis = int(ctx.at.attributes["axis"]) % len(values[0].axes)
    if len(parts) == 1:
        return ctx.bind(values[0])
    aligned = iter(_aligned(ctx, values, axis))
    placed: list[Part] = [next(aligned) if isinstance(p, Value) else p for p in parts]
    merged = _rows(ctx, placed, axis)
    ctx.bind(merged if merged is not None else _joined(ctx, placed, axis))


def _aligned(ctx: Lowering, values: Sequence[Value], axis: int) -> list[Value]:
    """Return ``values`` over common atoms; what is pending stays where it is the same for all."""
    lead = values[0].pending
    same = lead is not None and all(
        v.pending is not None
        and v.pending.scale is lead.scale
        and v.pending.shift is lead.shift
        and not set(v.pending.atoms) & set(v.axes[axis])
        for v in values
    )
    if not same:
        values = [ctx.settle(v) for v in values]
    return ctx.align(values, skip=(axis,))


def _rows(ctx: Lowering, parts: Sequence[Part], axis: int) -> Value | None:
    """Return one convolution that makes all parts, [W1; W2] x + [b1; b2], if they are rows of the same kind."""
    values = [p for p in parts if isinstance(p, Value)]
    lead = values[0]
    if len(values) < len(parts) or lead.maker is None or lead.maker.group != 1:
        return None
    channels = {a for a in lead.dims[1] if a not in lead.axes[axis]}
    for v in values:
        m = v.maker
        if m is None or (m.source, m.strides, m.pads, m.dilations, m.group) != (
            lead.maker.source, lead.maker.strides, lead.maker.pads, lead.maker.dilations, 1,
        ):  # fmt: skip
            return None
        fits = set(v.axes[axis]) <= set(v.dims[1]) and {a for a in v.dims[1] if a not in v.axes[axis]} == channels
        if not fits or (v.dims[0], v.dims[2], v.dims[3]) != (lead.dims[0], lead.dims[2], lead.dims[3]):
            return None
    order = tuple(a for a in flat(lead.axes) if a in channels)
    before = [a for a in flat(lead.axes[:axis]) if a in channels]
    joined = new_axis(sum(v.shape[axis] for v in values))
    target = order[: len(before)] + joined + order[len(before) :]
    weight = np.concatenate([_ordered(v.maker.weight, v, axis, order) for v in values if v.maker])
    bias = np.concatenate([_ordered(_bias(v.maker), v, axis, order) for v in values if v.maker])
    rows = move_array(np.arange(len(weight)).reshape(1, -1), [(), joined + order], [(), target]).reshape(-1)
    maker = _grouped(replace(lead.maker, weight=weight[rows], bias=bias[rows]))
    dims: Dims = (lead.dims[0], target, lead.dims[2], lead.dims[3])
    axes = tuple(joined if i == axis else a for i, a in enumerate(lead.axes))
    return Value(ctx.convolve(maker, sizes(dims)), dims, axes, maker)


def _grouped(maker: Maker) -> Maker:
    """Return a signed permutation that keeps within blocks of channels as a convolution of that many groups."""
    weight = maker.weight[:, :, 0, 0]
    out, given = weight.shape
    if maker.weight.shape[2:] != (1, 1) or out != given or (np.count_nonzero(weight, axis=1) != 1).any():
        return maker
    places = np.abs(weight).argmax(axis=1)
    for groups in range(out // 2, 1, -1):
        block = out // groups
        if out % groups == 0 and (places // block == np.arange(out) // block).all():
            blocks = weight.reshape(groups, block, groups, block)[np.arange(groups), :, np.arange(groups)]
            return replace(maker, weight=blocks.reshape(out, block, 1, 1), group=groups)
    return maker


def _bias(maker: Maker) -> NDArray[np.float32]:
    return np.zeros(len(maker.weight), np.float32) if maker.bias is None else maker.bias


def _ordered(array: NDArray[np.float32], value: Value, axis: int, order: Atoms) -> NDArray[np.float32]:
    """Return the rows of ``array`` with the joined axis outermost, then ``order``."""
    target = value.axes[axis] + order
    rows = move_array(np.arange(len(array)).reshape(1, -1), [(), value.dims[1]], [(), target]).reshape(-1)
    ordered: NDArray[np.float32] = array[rows]
    return ordered


def _joined(ctx: Lowering, parts: Sequence[Part], axis: int) -> Value:
    values = [p for p in parts if isinstance(p, Value)]
    values = _whole(ctx, parts, values)
    lead = max(values, key=lambda v: size(v.stored))
    dims, g = _layout(lead, axis)
    aligned, names, total = iter(values), [], 0
    for part in parts:
        if isinstance(part, Value):
            value = next(aligned)
            target: Dims = tuple(value.axes[axis] if i == g else group for i, group in enumerate(dims))  # type: ignore[assignment]
            names.append(ctx.relayout(value, target).name)
            total += value.shape[axis]
        else:
            names.append(_constant(ctx, part, lead, dims, g, axis))
            total += part.shape[axis]
    joined = new_axis(total)
    made: Dims = tuple(joined if i == g else group for i, group in enumerate(dims))  # type: ignore[assignment]
    axes = tuple(joined if i == axis else a for i, a in enumerate(lead.axes))
    return replace(lead, name=ctx.emit("Concat", names, sizes(made), axis=g), dims=made, axes=axes, maker=None)


def _whole(ctx: Lowering, parts: Sequence[Part], values: Sequence[Value]) -> list[Value]:
    """Return ``values`` with every axis stored in each of them, as Concat has no broadcast."""
    if len(values) < len(parts):
        values = [ctx.settle(v) for v in values]
    return [replace(ctx.fill(replace(v, pending=None)), pending=v.pending) for v in values]


def _layout(lead: Value, axis: int) -> tuple[Dims, int]:
    """Return a layout in which ``axis`` of ``lead`` is a physical axis of its own, and which one."""
    atoms = lead.axes[axis]
    if atoms and atoms in lead.dims:
        return lead.dims, lead.dims.index(atoms)
    if not atoms:
        free = next((g for g in (1, 3, 2, 0) if not lead.dims[g]), None)
        if free is not None:
            return lead.dims, free
        a, b, c, d = lead.dims
        return (a, b, c + d, ()), 3
    dims = exposing_layout(lead.dims, atoms)
    return dims, dims.index(atoms)


def _constant(ctx: Lowering, array: NDArray[Any], lead: Value, dims: Dims, g: int, axis: int) -> str:
    """Store a constant part in the layout ``dims``, whose axis ``g`` is the one that is joined."""
    own = new_axis(array.shape[axis])
    atoms = tuple(own if i == axis else a for i, a in enumerate(lead.axes))
    target: Dims = tuple(own if i == g else group for i, group in enumerate(dims))  # type: ignore[assignment]
    full = np.broadcast_to(array, sizes(atoms)).reshape(-1)
    return ctx.store(spread(full, flat(atoms), target), "part")
