"""Lower Slice, Split and Gather by constants: fewer rows of the convolution before, else a Slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from bpudeploy.restructure.atoms import Atoms, new_axis, size, sizes, with_axis
from bpudeploy.restructure.lower.context import Lowering
from bpudeploy.restructure.lower.layouts import exposing_layout
from bpudeploy.restructure.lower.views import reshaped
from bpudeploy.restructure.value import Convolution, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ENDS = (np.iinfo(np.int64).max, np.iinfo(np.int32).max)


def slice_(ctx: Lowering) -> None:
    """Slice by constant bounds."""
    value = ctx.value()
    starts, ends = ctx.numbers("starts", 1), ctx.numbers("ends", 2)
    axes = ctx.numbers("axes", 3) or list(range(len(starts)))
    steps = ctx.numbers("steps", 4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        n = value.shape[axis]
        index = range(n)[slice(start, None if end in _ENDS or end < -n else end, step)]
        if not index:  # for instance no prefix tokens: Concat ignores an empty constant
            ctx.constants[ctx.node.outputs[0]] = np.zeros(with_axis(value.shape, axis % len(value.axes), 0), np.float32)
            return
        value = selected(ctx, value, axis % len(value.axes), index)
    ctx.bind(value)


def split(ctx: Lowering) -> None:
    """Split: one selection per output."""
    value = ctx.value()
    axis = int(ctx.node.attributes.get("axis", 0)) % len(value.axes)
    n, count = value.shape[axis], len(ctx.node.outputs)
    lengths = ctx.numbers("split", 1)
    if not lengths:
        each = -(-n // count)
        lengths = [min(each, n - i * each) for i in range(count)]
    start = 0
    for index, length in enumerate(lengths):
        if ctx.node.outputs[index]:
            ctx.bind(selected(ctx, value, axis, range(start, start + length)), index)
        start += length


def gather(ctx: Lowering) -> None:
    """Gather by a constant index; a scalar index removes the axis."""
    value, index = ctx.value(), ctx.constant(1)
    axis = int(ctx.node.attributes.get("axis", 0)) % len(value.axes)
    n = value.shape[axis]
    wanted = [int(i) % n for i in index.reshape(-1)]
    steps = {b - a for a, b in pairwise(wanted)} or {1}
    even = len(steps) == 1 and steps != {0}
    chosen = range(wanted[0], wanted[-1] + (1 if min(steps) > 0 else -1), min(steps)) if even else wanted
    value = selected(ctx, value, axis, chosen)
    if index.ndim == 0:
        value = replace(value, axes=value.axes[:axis] + value.axes[axis + 1 :])
    elif index.ndim > 1:
        value = reshaped(ctx, value, [*value.shape[:axis], *index.shape, *value.shape[axis + 1 :]])
    ctx.bind(value)


def selected(ctx: Lowering, value: Value, axis: int, index: range | Sequence[int]) -> Value:
    """Return ``value`` with only the elements ``index`` of ``axis``, in that order."""
    atoms, n = value.axes[axis], value.shape[axis]
    if list(index) == list(range(n)):
        return value
    if not len(index):
        raise ctx.unsupported("it selects nothing")
    if not any(a in value.stored for a in atoms):
        return replace(value, axes=with_axis(value.axes, axis, new_axis(len(index))))
    if any(a not in value.stored for a in atoms):
        value = ctx.materialize(value)
    if set(atoms) <= set(value.dims[1]):
        if value.producer is not None and value.producer.group == 1:
            return _rows(ctx, value, axis, index)
        if _concatenated_again(ctx) and not (value.dims[1] == atoms and isinstance(index, range) and index.step == 1):
            return _rows(ctx, _with_identity(ctx, value), axis, index)
    if value.pending is not None and set(value.pending.atoms) & set(atoms):
        value = ctx.apply_pending(value)
    return _sliced(ctx, value, axis, index)


def _concatenated_again(ctx: Lowering) -> bool:
    """Return whether every output goes into a Concat, at most negated: a rotation of channels."""
    for tensor in ctx.node.outputs:
        for _ in range(4):
            reader = ctx.network.sole_reader(tensor)
            if reader is None or reader.op not in ("Neg", "Unsqueeze", "Concat"):
                return False
            if reader.op == "Concat":
                break
            tensor = reader.outputs[0]
    return True


def _with_identity(ctx: Lowering, value: Value) -> Value:
    """Return ``value`` as the output of an identity convolution, whose rows select channels.

    The rotation of a rotary embedding then becomes one convolution by a signed permutation.
    """
    value = ctx.apply_pending(value)
    identity = np.eye(size(value.dims[1]), dtype=np.float32)[:, :, None, None]
    return replace(value, producer=Convolution(value.name, identity, np.zeros(len(identity), np.float32)))


def _rows(ctx: Lowering, value: Value, axis: int, index: range | Sequence[int]) -> Value:
    """Return the convolution with only the chosen output channels: W[rows] x + b[rows]."""
    assert value.producer is not None
    conv, channels, atoms = value.producer, value.dims[1], value.axes[axis]
    position = {a: i for i, a in enumerate(channels)}
    others = tuple(a for a in channels if a not in atoms)
    grid = np.arange(size(channels)).reshape([a.size for a in channels])
    grid = grid.transpose([position[a] for a in (*atoms, *others)]).reshape(size(atoms), -1)
    chosen = grid[list(index)]
    kept = new_axis(len(index))
    first = bool(atoms) and atoms[0] is channels[0]
    rows = chosen.reshape(-1) if first else chosen.T.reshape(-1)
    order = kept + others if first else others + kept
    contiguous = bool((np.diff(rows) == 1).all())
    pick: slice | NDArray[np.int64] = slice(int(rows[0]), int(rows[-1]) + 1) if contiguous else rows
    conv = replace(conv, weight=conv.weight[pick], bias=conv.bias[pick])
    dims = with_axis(value.dims, 1, order)
    return Value(ctx.convolve(conv, sizes(dims)), dims, with_axis(value.axes, axis, kept), conv)


def _sliced(ctx: Lowering, value: Value, axis: int, index: range | Sequence[int]) -> Value:
    """Return a Slice of the physical axis that contains ``axis``, moved if it is not a slice there."""
    atoms = value.axes[axis]
    contiguous = isinstance(index, range) and index.step == 1
    g = next((g for g, group in enumerate(value.dims) if group[: len(atoms)] == atoms), None)
    if g is None or (value.dims[g] != atoms and not contiguous):
        value = exposed(ctx, value, atoms)
        g = value.dims.index(atoms)
    inner = value.dims[g][len(atoms) :]
    kept, unit = new_axis(len(index)), size(inner)
    dims = with_axis(value.dims, g, kept + inner)
    if isinstance(index, range):
        stop = index.stop * unit if index.step == 1 else (index.stop if index.stop >= 0 else -(2**31) + 1)
        bounds = [ctx.vector([n]) for n in (index.start * unit, stop, g, index.step)]
        name = ctx.emit("Slice", [value.name, *bounds], sizes(dims), "slice")
    else:
        name = ctx.emit("Gather", [value.name, ctx.vector(list(index))], sizes(dims), axis=g)
    return replace(value.stored_as(name, dims), axes=with_axis(value.axes, axis, kept))


def exposed(ctx: Lowering, value: Value, atoms: Atoms) -> Value:
    """Return ``value`` in the closest layout in which ``atoms`` are a whole physical axis."""
    return ctx.relayout(value, exposing_layout(value.dims, atoms))
