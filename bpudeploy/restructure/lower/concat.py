"""Lower Concat: one convolution if all parts are convolutions of the same input, else a Concat in one layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bpudeploy.restructure.atoms import Atoms, Dims, flat, new_axis, size, sizes, with_axis
from bpudeploy.restructure.lower.context import Lowering, broadcastable
from bpudeploy.restructure.lower.layouts import exposing_layout
from bpudeploy.restructure.moves import move_array
from bpudeploy.restructure.value import Convolution, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

Part = Value | np.ndarray[Any, Any]


def concat(ctx: Lowering) -> None:
    """Concat along one axis; constant parts (class tokens) are stored in the layout of the others."""
    parts = [ctx.input(i) for i in range(len(ctx.node.inputs))]
    parts = [p for p in parts if not isinstance(p, np.ndarray) or p.size]
    values = [p for p in parts if isinstance(p, Value)]
    axis = int(ctx.node.attributes["axis"]) % len(values[0].axes)
    if len(parts) == 1:
        return ctx.bind(values[0])
    aligned = iter(_aligned(ctx, values, axis))
    parts = [next(aligned) if isinstance(p, Value) else p for p in parts]
    merged = _stacked_rows(ctx, parts, axis)
    ctx.bind(merged if merged is not None else _concatenated(ctx, parts, axis))


def _aligned(ctx: Lowering, values: Sequence[Value], axis: int) -> list[Value]:
    """Return ``values`` over common atoms; a pending affine stays if it is the same for all."""
    lead = values[0].pending
    same = lead is not None and all(
        v.pending is not None
        and v.pending.scale is lead.scale
        and v.pending.shift is lead.shift
        and not set(v.pending.atoms) & set(v.axes[axis])
        for v in values
    )
    if not same:
        values = [ctx.apply_pending(v) for v in values]
    return ctx.align(values, skip=(axis,))


def _stacked_rows(ctx: Lowering, parts: Sequence[Part], axis: int) -> Value | None:
    """Return one convolution [W1; W2] x + [b1; b2] for all parts, or None if they differ in more than their rows."""
    values = [p for p in parts if isinstance(p, Value)]
    lead = values[0]
    if len(values) < len(parts) or lead.producer is None or lead.producer.group != 1:
        return None
    channels = {a for a in lead.dims[1] if a not in lead.axes[axis]}
    for v in values:
        m = v.producer
        if m is None or (m.source, m.window, m.group) != (lead.producer.source, lead.producer.window, 1):
            return None
        fits = set(v.axes[axis]) <= set(v.dims[1]) and {a for a in v.dims[1] if a not in v.axes[axis]} == channels
        if not fits or (v.dims[0], v.dims[2], v.dims[3]) != (lead.dims[0], lead.dims[2], lead.dims[3]):
            return None
    order = tuple(a for a in flat(lead.axes) if a in channels)
    before = [a for a in flat(lead.axes[:axis]) if a in channels]
    joined = new_axis(sum(v.shape[axis] for v in values))
    target = order[: len(before)] + joined + order[len(before) :]
    weight = np.concatenate([_ordered(v.producer.weight, v, axis, order) for v in values if v.producer])
    bias = np.concatenate([_ordered(v.producer.bias, v, axis, order) for v in values if v.producer])
    rows = move_array(np.arange(len(weight)).reshape(1, -1), [(), joined + order], [(), target]).reshape(-1)
    conv = _grouped(replace(lead.producer, weight=weight[rows], bias=bias[rows]))
    dims = with_axis(lead.dims, 1, target)
    return Value(ctx.convolve(conv, sizes(dims)), dims, with_axis(lead.axes, axis, joined), conv)


def _grouped(conv: Convolution) -> Convolution:
    """Return a signed permutation within blocks of channels as a grouped convolution."""
    weight = conv.weight[:, :, 0, 0]
    out, channels = weight.shape
    if conv.weight.shape[2:] != (1, 1) or out != channels or (np.count_nonzero(weight, axis=1) != 1).any():
        return conv
    sources = np.abs(weight).argmax(axis=1)
    for groups in range(out // 2, 1, -1):
        block = out // groups
        if out % groups == 0 and (sources // block == np.arange(out) // block).all():
            blocks = weight.reshape(groups, block, groups, block)[np.arange(groups), :, np.arange(groups)]
            return replace(conv, weight=blocks.reshape(out, block, 1, 1), group=groups)
    return conv


def _ordered(array: NDArray[np.float32], value: Value, axis: int, order: Atoms) -> NDArray[np.float32]:
    """Return the rows of ``array`` with the joined axis outermost, then ``order``."""
    target = value.axes[axis] + order
    rows = move_array(np.arange(len(array)).reshape(1, -1), [(), value.dims[1]], [(), target]).reshape(-1)
    ordered: NDArray[np.float32] = array[rows]
    return ordered


def _concatenated(ctx: Lowering, parts: Sequence[Part], axis: int) -> Value:
    values = [p for p in parts if isinstance(p, Value)]
    if len(values) < len(parts):
        values = [ctx.apply_pending(v) for v in values]
    values = [replace(ctx.materialize(replace(v, pending=None)), pending=v.pending) for v in values]
    lead = max(values, key=lambda v: size(v.stored))
    dims, g = _layout(lead, axis)
    aligned, names, total = iter(values), [], 0
    for part in parts:
        if isinstance(part, Value):
            value = next(aligned)
            names.append(ctx.relayout(value, with_axis(dims, g, value.axes[axis])).name)
            total += value.shape[axis]
        else:
            names.append(_constant(ctx, part, lead, dims, g, axis))
            total += part.shape[axis]
    joined = new_axis(total)
    dims = with_axis(dims, g, joined)
    lead = replace(lead, axes=with_axis(lead.axes, axis, joined))
    return lead.stored_as(ctx.emit("Concat", names, sizes(dims), axis=g), dims)


def _layout(lead: Value, axis: int) -> tuple[Dims, int]:
    """Return a layout in which ``axis`` of ``lead`` is a whole physical axis, and that axis."""
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
    """Store a constant part in the layout ``dims``, concatenated on physical axis ``g``."""
    own = new_axis(array.shape[axis])
    axes = with_axis(lead.axes, axis, own)
    full = np.broadcast_to(array, sizes(axes)).reshape(-1)
    return ctx.store(broadcastable(full, flat(axes), with_axis(dims, g, own)), "part")
